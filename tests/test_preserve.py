"""Keeping the source's pixels where an edit changed nothing."""

import pytest
import torch

from dragonkit.preserve import FAINT, STRONG, preserve


@pytest.fixture
def scene():
    """A noisy background, an object that goes from left to right, and an autoencoder's small error."""
    generator = torch.Generator().manual_seed(0)
    source = 0.4 + 0.2 * torch.rand(3, 64, 96, generator=generator)
    through = source + 0.004 * torch.randn(3, 64, 96, generator=generator)
    was, target = torch.zeros(2, 64, 96, dtype=torch.bool)
    was[20:40, 10:30] = True
    target[20:40, 60:80] = True
    return source, through, was, target


def test_an_edit_that_changed_nothing_gives_the_source_outside_its_places(scene):
    source, through, was, target = scene
    out = preserve(through, through, source, was, target)
    far = torch.ones_like(was)
    far[16:44, 6:34] = far[16:44, 56:84] = False
    assert torch.equal(out[:, far], source[:, far])
    assert torch.equal(out[:, target], through[:, target])
    assert torch.equal(out[:, was], through[:, was])


def test_a_shadow_that_touches_the_object_stays_and_a_stray_change_does_not(scene):
    source, through, was, target = scene
    edited = through.clone()
    edited[:, target] = 0.9
    edited[:, 40:48, 62:78] -= 0.3  # a shadow below the object
    edited[:, 2:8, 40:48] += 0.3  # something that drifted far from it
    out = preserve(edited, through, source, was, target)
    change = out - source
    assert float(change[:, 43:46, 64:76].mean()) < -0.28
    assert torch.equal(out[:, 1:9, 38:50], source[:, 1:9, 38:50])


def test_an_object_drawn_too_large_keeps_its_outline(scene):
    source, through, was, target = scene
    edited = through.clone()
    edited[:, 19:41, 59:81] = 0.95  # one pixel too large on each side
    out = preserve(edited, through, source, was, target)
    rim = torch.zeros_like(target)
    rim[18:42, 58:82] = True
    rim &= ~target
    assert float((out - source)[:, rim].abs().mean()) < 0.5 * float((edited - source)[:, rim].abs().mean())
    assert torch.equal(out[:, target], edited[:, target])


def test_the_result_stays_in_range_and_thresholds_are_ordered(scene):
    source, through, was, target = scene
    edited = through.clone()
    edited[:, 10:60] = 1.0
    out = preserve(edited, through, source, was, target)
    assert 0 <= float(out.min()) and float(out.max()) <= 1
    assert FAINT < STRONG
    everywhere = torch.ones_like(was)
    assert torch.equal(preserve(edited, through, source, everywhere, target), edited)


def test_what_may_not_change_is_the_sources(scene):
    source, through, was, target = scene
    edited = through.clone()
    edited[:, 10:60] = 1.0
    within = was | target
    out = preserve(edited, through, source, was, target, within)
    assert torch.equal(out[:, ~within], source[:, ~within])
    assert torch.equal(out[:, target], edited[:, target])
