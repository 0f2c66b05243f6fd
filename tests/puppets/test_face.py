from __future__ import annotations

from s2v_ray.puppets.face import Face
from s2v_ray.puppets.traits import TRAITS


def face(**traits: float) -> Face:
    return Face.from_traits(dict.fromkeys(TRAITS, 0.5) | traits)


def test_a_large_build_has_a_broad_jaw_thick_brows_and_small_eyes() -> None:
    small, large = face(build=0.0), face(build=0.99)
    assert large.half_width > small.half_width
    assert large.jaw > small.jaw
    assert large.brow > small.brow
    assert large.eye_size < small.eye_size
    assert small.lashes and not large.lashes


def test_every_kind_of_glasses_and_noses_occurs() -> None:
    values = [i / 100 for i in range(100)]
    assert {face(glasses=v).glasses for v in values} == {0, 1, 2}
    assert {face(nose=v).nose for v in values} == {0, 1, 2, 3}
