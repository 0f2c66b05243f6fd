import torch

from s2v_ray.media.timing import frames_to_samples
from s2v_ray.models.discriminators import EmotionNetwork, FrameNetwork, SequenceNetwork
from s2v_ray.models.sync import SyncNetwork


def test_shapes():
    frames = torch.rand(3, 7, 3, 32, 32) * 2 - 1
    assert FrameNetwork(4, 8)(frames[:, 0], torch.randn(3, 8)).shape == (3, 2, 2)
    assert SequenceNetwork(4)(frames).shape == (3, 6)
    assert EmotionNetwork(4, 5)(frames[:, 0]).shape == (3, 6)
    assert SyncNetwork(4, 5, 32)(torch.randn(3, frames_to_samples(7)), frames).shape == (3, 3)


def test_the_frame_network_asks_whose_face_it_is():
    torch.manual_seed(0)
    network, frame = FrameNetwork(8, 8), torch.rand(1, 3, 32, 32)
    assert not torch.allclose(network(frame, torch.ones(1, 8)), network(frame, -torch.ones(1, 8)))


def test_the_sync_network_sees_the_mouth_and_its_movement_only():
    torch.manual_seed(0)
    network = SyncNetwork(4, 5, 32)
    frames = torch.rand(1, 9, 3, 32, 32)
    other = frames.clone()
    other[..., :16, :] = 0.0  # the upper half of the face
    torch.testing.assert_close(network.embed_frames(frames), network.embed_frames(other))
    still = frames[:, :1].expand(-1, 9, -1, -1, -1)
    embedding = network.embed_frames(still)
    torch.testing.assert_close(embedding, network.embed_frames(1.0 - still), atol=1e-4, rtol=1e-3)  # looks do not count


def test_embeddings_are_of_unit_length():
    network = SyncNetwork(4, 5, 32)
    torch.testing.assert_close(
        network.embed_speech(torch.randn(2, frames_to_samples(8))).norm(dim=-1), torch.ones(2, 4)
    )
