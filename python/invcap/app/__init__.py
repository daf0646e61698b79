"""The web page: captions, drawings, scores, and inversions with live progress."""
