"""What is known of an annotated object: all of it, some planes, some strokes, or a point."""

from __future__ import annotations

#: whole: drawn in all its voxels; slices: outlined and filled in some planes of a volume; strokes: some of its voxels
#: are painted; points: one voxel of it, or a few. Of what is not drawn of the last three nothing is known.
KINDS = ("whole", "slices", "strokes", "points")
