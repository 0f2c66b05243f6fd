"""The built-in synthetic corpus with known ground truth: voices of espeak-ng and drawn faces.

The identity of a puppet determines its voice and its face, the emotion determines prosody and expression, and the
phonemes determine the shape of the mouth. Recordings of people can replace the voices of espeak-ng: then the acted
emotion is drawn on a face of the actor. Clips are written as ordinary MP4 files, with a file of ground truth beside
each, and are ingested in the same way as real data.
"""
