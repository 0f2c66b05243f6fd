"""The built-in corpus whose truth is known: espeak-ng voices and drawn faces.

One identity shapes both the voice and the face of a puppet, one emotion both its prosody and its expression, and the
phonemes of what it says move its mouth. Clips are written as ordinary MP4 files with a truth file beside each, so that
they enter by the same door as real data.
"""
