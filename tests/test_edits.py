"""Each edit's regions against masks worked out by hand, and its terms against what the weights ask for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonkit.edits import Appearance, Branches, Drag, Edit, Move, Paste, Regions, Resize, Rotate, Several
from dragonkit.energy import Term, attract, similarity
from dragonkit.errors import InputError
from dragonkit.guidance import KINDS, Guidance
from dragonkit.regions import Frame, nearest, pick
from dragonkit.spline import came_from
from tests.tiny import box, picture

FRAME = Frame(64, 128)  # latent 8 x 16, grid 16 x 32
OBJECT = box(64, 128, 16, 16, 40, 48)
REF, REF_MASK = picture(128, 64, 1), box(128, 64, 64, 8, 96, 40)


def cells(index, frame=FRAME):
    mask = torch.zeros(frame.grid[0] * frame.grid[1], dtype=torch.bool)
    mask[index] = True
    return mask.reshape(frame.grid)


def branches(seed=0, refs=()):
    g = torch.Generator().manual_seed(seed)
    gen, gud = torch.randn(2, 1, 5, *FRAME.grid, generator=g)
    return Branches(gen, gud, refs, 2)


def test_move_by_whole_cells_has_the_masks_of_the_paper():
    m = Move(OBJECT, by=(24, 8)).regions(FRAME)
    gud, gen = box(16, 32, 4, 4, 10, 12), box(16, 32, 6, 10, 12, 18)
    assert torch.equal(cells(m.gen), gen)
    assert torch.equal(cells(m.share), ~(gud | gen)) and torch.equal(cells(m.inpaint), gud & ~gen)
    assert torch.equal(cells(m.outside), ~gud)
    assert torch.equal(m.target, box(8, 16, 3, 5, 6, 9)) and torch.equal(m.landing, m.target)
    assert torch.equal(m.edited, m.target | box(8, 16, 2, 2, 5, 6))
    f = branches().gud
    assert torch.equal(pick(f, m.gud), f[0][:, gud])  # the object's own features, in its own order


@settings(deadline=None, max_examples=60)
@given(st.floats(-150, 150), st.floats(-80, 80), st.floats(0.1, 4), st.floats(-180, 180))
def test_regions_of_any_move_are_consistent_or_refused(dx, dy, scale, angle):
    edit = Move(OBJECT, by=(dx, dy), scale=scale, angle=angle)
    try:
        m = edit.regions(FRAME)
    except InputError:
        # Refused only if what would remain is next to nothing.
        assert edit.target().sum() < 64
        return
    assert len(m.gen) == len(m.gud) and m.target.sum() == len(m.source)
    taken = [set(x.tolist()) for x in (m.gen, m.share, m.inpaint) if x is not None]
    assert sum(map(len, taken)) == len(set.union(*taken)) == 16 * 32
    assert m.gud[:, 0].min() >= -0.5 and m.gud[:, 0].max() <= 31.5
    assert m.gud[:, 1].min() >= -0.5 and m.gud[:, 1].max() <= 15.5


@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_scaling_scales_the_area_about_the_centre(scale):
    big, mask = Frame(128, 128), box(128, 128, 48, 48, 80, 80)
    target = Resize(mask, scale).target()
    assert target.sum().item() == pytest.approx(scale**2 * mask.sum().item(), rel=0.06)
    assert target.nonzero().float().mean(0).tolist() == pytest.approx([63.5, 63.5], abs=0.5)
    assert len(Resize(mask, scale).regions(big).gen) == scale**2 * 64


def test_turning_is_clockwise_as_seen():
    bar = box(128, 128, 60, 64, 68, 104)  # from its centre (83.5, 63.5) to the left and right
    head = box(128, 128, 60, 96, 68, 104)  # its right end
    shape = Move(bar | head, angle=90).target()
    assert torch.equal(shape, box(128, 128, 44, 80, 84, 88))
    down = Move(bar, by=(0, 0), angle=90).placement.back(torch.tensor([83.5, 83.0], dtype=torch.float64))
    torch.testing.assert_close(down, torch.tensor([103.0, 63.5], dtype=torch.float64))  # the right end went down


def test_content_from_off_the_frame_is_left_out():
    """A cell that overhangs the mask's border must not be matched with what lies beyond the image."""
    m = Move(box(64, 128, 0, 0, 30, 30), by=(-6, 10)).regions(FRAME)
    assert m.gud.min() >= -0.5


def test_noise_is_copied_not_interpolated():
    z = torch.randn(1, 4, 8, 16)
    for edit in (Move(OBJECT, by=(24, 8)), Move(OBJECT, by=(21, 5), scale=1.3)):
        m = edit.regions(FRAME)
        started = edit.start(z, None, m)
        assert torch.equal(started[0][:, ~m.target], z[0][:, ~m.target])
        values = set(map(tuple, z[0].flatten(1).T.tolist()))
        assert set(map(tuple, started[0].flatten(1).T.tolist())) <= values
    m = Move(OBJECT, by=(24, 8)).regions(FRAME)
    assert torch.equal(Move(OBJECT, by=(24, 8)).start(z, None, m)[0][:, m.target], z[0][:, box(8, 16, 2, 2, 5, 6)])


def test_moving_nowhere_vacates_nothing():
    m = Move(OBJECT).regions(FRAME)
    assert m.inpaint is None
    names = [t.name for t in Move(OBJECT).terms(branches(), m, Guidance())]
    assert names == ["edit", "content"]


def test_terms_of_a_move_are_the_equations():
    m, f, w = Move(OBJECT, by=(24, 8)).regions(FRAME), branches(), Guidance()
    terms = {t.name: t for t in Move(OBJECT, by=(24, 8)).terms(f, m, w)}
    gud, gen = box(16, 32, 4, 4, 10, 12), box(16, 32, 6, 10, 12, 18)

    def s(a, b):
        return (torch.cosine_similarity(a, b, dim=0).mean() + 1) / 2

    moved = torch.roll(f.gud, (2, 6), (2, 3))
    share, left = ~(gud | gen), gud & ~gen
    expected = {
        "edit": 4 / (1 + 4 * s(f.gen[0][:, gen], moved[0][:, gen])),
        "content": 6 / (1 + 4 * s(f.gen[0][:, share], f.gud[0][:, share])),
        "contrast": 0.2 * s(f.gen[0][:, left], f.gud[0][:, left]),
        "inpaint": 0.8 / (1 + 4 * s(f.gen[0][:, left].mean(1), f.gud[0][:, ~gud].mean(1))),
    }
    assert {n: t.value.item() for n, t in terms.items()} == pytest.approx({n: v.item() for n, v in expected.items()})
    assert [n for n, t in terms.items() if t.region == "edit"] == ["edit"]


@pytest.mark.parametrize("name", ["edit", "content", "contrast", "inpaint"])
def test_a_weight_of_0_removes_its_term(name):
    edit = Move(OBJECT, by=(24, 8))
    names = {t.name for t in edit.terms(branches(), edit.regions(FRAME), Guidance().replace(**{f"w_{name}": 0}))}
    assert names == {"edit", "content", "contrast", "inpaint"} - {name}


def test_a_fulfilled_move_has_the_least_edit_energy():
    edit, f = Move(OBJECT, by=(22.5, 7), scale=1.2, angle=30), branches()
    m = edit.regions(FRAME)
    gen = f.gen.clone()
    gen[0].flatten(1)[:, m.gen] = pick(f.gud, m.gud)
    first = next(iter(edit.terms(Branches(gen, f.gud, None, 2), m, Guidance())))
    assert first.name == "edit" and first.value.item() == pytest.approx(4 / 5)


def test_drag_matches_discs_round_the_points():
    edit = Drag([(21.5, 21.5, 61.5, 37.5)], box(64, 128, 0, 0, 64, 96))
    m = edit.regions(FRAME)
    f = branches()
    assert torch.equal(pick(f.gud, m.gud), f.gud[0][:, box(16, 32, 4, 4, 7, 7)])
    assert torch.equal(pick(f.gen, m.gen), f.gen[0][:, box(16, 32, 8, 14, 11, 17)])
    assert torch.equal(cells(m.share), ~box(16, 32, 0, 0, 16, 24)) and torch.equal(m.target, box(8, 16, 0, 0, 8, 12))
    assert torch.equal(m.landing, box(8, 16, 3, 6, 6, 9))
    z = torch.arange(8 * 16.0).reshape(1, 1, 8, 16)
    assert torch.equal(edit.start(z, None, m)[0, 0, 3:6, 6:9], torch.roll(z, (2, 5), (2, 3))[0, 0, 3:6, 6:9])
    assert [t.name for t in edit.terms(f, m, Guidance.preset("iclr", "drag"))] == ["edit", "content", "contrast"]


def test_drag_without_a_mask_keeps_what_is_far_away():
    m = Drag([(20, 20, 60, 20)]).regions(FRAME)
    assert not cells(m.share)[5, 5:15].any() and cells(m.share)[:, 24:].all()


def test_a_point_that_stays_is_not_pushed_away():
    assert Drag([(20, 20, 20, 20)]).regions(FRAME).inpaint is None


def test_appearance_compares_means_over_the_two_objects():
    edit = Appearance(OBJECT, REF, REF_MASK, "a ball")
    m = edit.regions(FRAME)
    ref = torch.randn(1, 5, 32, 16)
    f = branches(refs=(ref,))
    terms = {t.name: t for t in edit.terms(f, m, Guidance.preset("iclr", "appearance"))}
    mine, theirs = f.gen[0][:, box(16, 32, 4, 4, 10, 12)].mean(1), ref[0][:, box(32, 16, 16, 2, 24, 10)].mean(1)
    s = (torch.cosine_similarity(mine, theirs, dim=0) + 1) / 2
    assert terms["edit"].value.item() == pytest.approx((3.5 / (1 + 4 * s)).item())
    assert torch.equal(cells(m.share), ~box(16, 32, 4, 4, 10, 12)) and set(terms) == {"edit", "content"}


def test_mixed_attention_sees_background_outside_and_reference_inside():
    edit = Appearance(OBJECT, REF, REF_MASK)
    m = edit.regions(FRAME)
    gud, ref = torch.randn(1, 8 * 16, 6), torch.randn(1, 16 * 8, 6)
    seen = edit.context(torch.randn(2, 8 * 16, 6), gud, (ref,), m)
    background, inner = ~box(8, 16, 2, 2, 5, 6).flatten(), box(16, 8, 8, 1, 12, 5).flatten()
    assert torch.equal(seen, torch.cat([gud[:, background], ref[:, inner]], 1))


def test_paste_takes_the_reference_object_to_its_place():
    edit = Paste(REF, REF_MASK, at=(79.5, 31.5))
    m = edit.regions(FRAME)
    assert torch.equal(cells(m.gen), box(16, 32, 4, 16, 12, 24))
    ref = torch.randn(1, 5, 32, 16)
    assert torch.equal(pick(ref, m.gud), ref[0][:, box(32, 16, 16, 2, 24, 10)])
    z, other = torch.randn(1, 4, 8, 16), torch.randn(1, 4, 16, 8)
    started = edit.start(z, (other,), m)
    assert torch.equal(started[0][:, m.landing], other[0][:, box(16, 8, 8, 1, 12, 5)])
    assert torch.equal(started[0][:, ~m.landing], z[0][:, ~m.landing])
    half = Paste(REF, REF_MASK, at=(79.5, 31.5), scale=0.5).regions(FRAME)
    assert torch.equal(cells(half.gen), box(16, 32, 6, 18, 10, 22))


def test_a_new_edit_needs_only_terms():
    class Keep(Edit):
        def terms(self, f, m, w):
            yield Term("content", attract(similarity(f.gen, f.gud), w.w_content))

    edit, z = Keep(), torch.randn(1, 4, 8, 16)
    m = edit.regions(FRAME)
    assert isinstance(m, Regions) and edit.references == () and edit.start(z, (), m) is z
    assert torch.equal(edit.context(z, z, (), m), z)
    with pytest.raises(TypeError):
        Edit()


@pytest.mark.parametrize("cls", [Move, Resize, Appearance, Drag, Rotate, Paste])
def test_every_edit_has_a_preset(cls):
    assert cls.kind in KINDS


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Move(box(64, 128, 0, 0, 0, 0)), "mask is empty"),
        (lambda: Move(OBJECT, by=(1, float("nan"))), "by is .*nan.*: give 2 finite numbers"),
        (lambda: Move(OBJECT, by=5), "by is 5"),
        (lambda: Move(OBJECT, by="12"), "by is '12'"),
        (lambda: Move(OBJECT, scale=0), "scale is 0"),
        (lambda: Move(OBJECT, scale="big"), "scale is 'big': give a finite number"),
        (lambda: Move(OBJECT, angle=float("inf")), "angle is inf"),
        (lambda: Drag([]), "points is"),
        (lambda: Drag([(1, 2, 3)]), "a point is"),
        (lambda: Appearance(OBJECT, REF, OBJECT), "reference_mask is 128x64 but the reference is 64x128"),
        (lambda: Appearance(OBJECT, REF, REF_MASK, 3), "reference_prompt is 3"),
        (lambda: Paste(REF, REF_MASK, at=(1,)), "at is"),
        (lambda: Paste(REF, REF_MASK, at=(1, 2), scale=-1), "scale is -1"),
    ],
)
def test_bad_values_are_refused_when_an_edit_is_made(build, message):
    with pytest.raises(InputError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Move(box(64, 64, 0, 0, 9, 9)), "mask is 64x64 but the image is 128x64"),
        (Move(OBJECT, by=(500, 0)), r"moved by \(500, 0\) the object leaves the image"),
        (Drag([(5, 5, 128, 5)]), r"point \(128, 5\) is off the 128x64 image"),
        (Drag([(5, 5, 9, 5)], box(9, 9, 0, 0, 5, 5)), "mask is 9x9"),
        (Appearance(REF_MASK, REF, REF_MASK), "mask is 64x128"),
        (Paste(REF, REF_MASK, at=(300, 0)), r"pasted at \(300, 0\) the object is off the image"),
    ],
)
def test_edits_that_do_not_fit_the_image_are_refused(edit, message):
    with pytest.raises(InputError, match=message):
        edit.regions(FRAME)


def test_appearance_gives_the_objects_noise_the_references_mean_spread_and_part_of_it():
    edit = Appearance(OBJECT, REF, REF_MASK)
    m = edit.regions(FRAME)
    z, other = torch.randn(1, 4, 8, 16), 3 * torch.randn(1, 4, 16, 8) + 1
    started = edit.start(z, (other,), m)
    mine, theirs = box(8, 16, 2, 2, 5, 6), box(16, 8, 8, 1, 12, 5)
    # 3 rows of the object lie on 4 of the reference's, the middle one between the second and the third.
    opposite = other[0][:, theirs].reshape(4, 4, 4)[:, [0, 1, 3]].flatten(1)
    new, old = started[0][:, mine], z[0][:, mine]
    torch.testing.assert_close(nearest(other, m.source), opposite)
    torch.testing.assert_close(new.mean(1), opposite.mean(1))
    torch.testing.assert_close(new.std(1), opposite.std(1))
    assert torch.equal(started[0][:, ~mine], z[0][:, ~mine])
    for channel in range(4):  # what is left, but for mean and spread, are 6 parts of the one pattern and 4 of the other
        unit = [(x[channel] - x[channel].mean()) / x[channel].std() for x in (new, old, opposite)]
        parts = torch.linalg.lstsq(torch.stack(unit[1:], 1), unit[0][:, None])
        assert parts.solution[0].item() / parts.solution[1].item() == pytest.approx(1.5, rel=1e-4)
        torch.testing.assert_close(torch.stack(unit[1:], 1) @ parts.solution, unit[0][:, None])


def test_an_appearance_from_a_single_cell_leaves_the_noise_alone():
    edit = Appearance(OBJECT, REF, box(128, 64, 64, 8, 68, 12))
    z = torch.randn(1, 4, 8, 16)
    assert edit.start(z, (torch.randn(1, 4, 16, 8),), edit.regions(FRAME)) is z


def test_rotate_compares_every_cell_with_where_the_spline_takes_it_from():
    mask, points = box(64, 128, 8, 16, 56, 112), [(60, 31.5, 68, 31.5), (40, 31.5, 44, 31.5)]
    edit = Rotate(points, mask)
    m, drag = edit.regions(FRAME), Drag(points, mask).regions(FRAME)
    assert torch.equal(m.share, drag.share) and torch.equal(m.edited, drag.edited | m.landing)
    assert m.inpaint is None and [t.name for t in edit.terms(branches(), m, Guidance())] == ["edit", "content"]
    assert len(m.gen) == len(m.gud) == int(box(16, 32, 2, 4, 14, 28).sum())
    way = FRAME.to_pixels(m.gud.double(), FRAME.grid) - FRAME.to_pixels(m.gen.double(), FRAME.grid)
    expected = came_from(FRAME.to_pixels(m.gen.double(), FRAME.grid), points, mask)
    torch.testing.assert_close(FRAME.to_pixels(m.gud.double(), FRAME.grid), expected, atol=1e-4, rtol=0)
    near = (FRAME.to_pixels(m.gen.double(), FRAME.grid) - torch.tensor([68, 31.5])).norm(dim=1).argmin()
    assert way[near, 0] == pytest.approx(-8, abs=1.5) and way.norm(dim=1).max() < 12
    # Cells that hardly move keep their noise; the others take it from where they come from.
    z = torch.arange(8 * 16.0).reshape(1, 1, 8, 16)
    started = edit.start(z, (), m)
    assert m.landing.any() and torch.equal(started[0, 0][~m.landing], z[0, 0][~m.landing])
    assert torch.equal(started[0, 0][m.landing], nearest(z, m.source)[0])


def test_edits_say_what_may_change_at_all():
    mask = box(64, 128, 8, 16, 56, 112)
    was, target, within = Drag([(40.5, 32, 80.5, 32)], mask).places(FRAME)
    assert torch.equal(within, mask) and was[32, 40] and target[32, 80] and not (was & target).any()
    assert was.sum() == target.sum() and 90 < was.sum() < 130  # a disc of three quarters of a cell's width, 6 pixels
    assert Move(OBJECT, by=(8, 0)).places(FRAME).within is None
    assert all(torch.equal(places, OBJECT) for places in Appearance(OBJECT, REF, REF_MASK).places(FRAME))
    assert Several([Move(OBJECT, by=(8, 0)), Drag([(40, 32, 80, 32)], mask)]).places(FRAME).within is None
    both = Several([Appearance(OBJECT, REF, REF_MASK), Drag([(40, 32, 80, 32)], mask)]).places(FRAME)
    assert torch.equal(both.within, mask | OBJECT)


def test_regions_are_found_on_the_host_and_moved_whole():
    frame, mask = Frame(64, 96), box(64, 96, 8, 8, 32, 40)
    move, paste = Move(mask, by=(24, 16)), Paste(picture(64, 64, 3), box(64, 64, 20, 20, 50, 50), at=(50, 30))
    m = Several([move, paste]).regions(frame)
    moved = m.to(torch.device("meta"))

    def tensors(x):
        if isinstance(x, torch.Tensor):
            return [x]
        inner = vars(x).values() if isinstance(x, Regions) else x.values() if isinstance(x, dict) else x
        return [y for part in inner if part is not None and not isinstance(part, int) for y in tensors(part)]

    before, after = tensors(m), tensors(moved)
    assert type(moved) is type(m) and len(before) == len(after) > 10
    assert all(x.device.type == "cpu" for x in before) and all(x.device.type == "meta" for x in after)
    assert m.shape == moved.shape == Several([move, paste]).regions(frame).shape
    assert m.shape != Several([move]).regions(frame).shape
    assert Several([move, paste]).kinds == (Several, Move, Paste) and move.kinds == (Move,)
