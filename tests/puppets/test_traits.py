from __future__ import annotations

import numpy as np

from s2v_ray.puppets.traits import TRAITS, draw_traits, make_actor_face, make_puppet


def test_traits_cover_their_range() -> None:
    drawn = draw_traits(0, 24)
    for name in TRAITS:
        values = np.sort([traits[name] for traits in drawn])
        assert (np.floor(values * 24) == np.arange(24)).all(), name  # one speaker in each of 24 intervals
    builds = sorted(traits["build"] for traits in drawn)
    assert np.all(np.diff(builds) > 0.01)
    assert builds[0] < 0.05
    assert builds[-1] > 0.95


def test_puppets_differ() -> None:
    puppets = [make_puppet(0, i, 24) for i in range(24)]
    assert len({p.voice.accent for p in puppets}) == 8
    assert len({(p.face.hair.style, p.face.skin, p.face.glasses, p.face.hair.beard) for p in puppets}) > 20


def test_puppets_depend_on_the_seed() -> None:
    assert make_puppet(0, 3, 24) == make_puppet(0, 3, 24)
    assert make_puppet(0, 3, 24) != make_puppet(1, 3, 24)


def test_actors_have_faces_of_their_own_with_builds_by_sex() -> None:
    faces = [make_actor_face(0, actor) for actor in range(1, 49)]
    assert len(set(faces)) == 48
    assert faces[6] == make_actor_face(0, 7) != make_actor_face(1, 7)
    assert not any(face.hair.beard for face in faces[1::2])
    assert any(face.hair.beard for face in faces[::2])
    assert not any(face.lashes for face in faces[::2])
