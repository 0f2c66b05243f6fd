"""Ingest: video files of a source -> a corpus.

``sources`` lists the clips of a data set. ``scan``, ``align`` and ``crop`` turn one file into clips, ``staging``
does so for a task's files, ``splits`` and ``corpus`` decide where each clip belongs, and ``annotate`` stores the
teachers' outputs. None of them needs Ray; ``ray_pipeline`` runs them on Ray Data.
"""
