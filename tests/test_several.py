"""Several edits in one run: energies add, what stays is what stays under all of them."""

import pytest
import torch

from dragonkit import editor
from dragonkit.edits import Appearance, Branches, Drag, Edit, Move, Paste, Several
from dragonkit.errors import InputError
from dragonkit.guidance import Guidance
from dragonkit.regions import Frame
from tests.tiny import box, hooks, picture, tiny_model

FRAME = Frame(64, 128, 8, 64)
A, B = box(64, 128, 8, 8, 24, 32), box(64, 128, 32, 64, 56, 88)
MOVES = [Move(A, by=(16, 8)), Move(B, by=(24, 0))]
REFERENCE, IN_REFERENCE = picture(64, 64, 3), box(64, 64, 8, 8, 40, 40)
W = Guidance.preset("iclr")


def branches(refs=(), seed=0):
    gen, gud = torch.randn(2, 1, 5, *FRAME.grid, generator=torch.Generator().manual_seed(seed))
    return Branches(gen, gud, refs, 2)


def values(edit, f, w=W):
    return {t.name: t.value.item() for t in edit.terms(f, edit.regions(FRAME), w)}


def test_energies_add_and_what_stays_counts_once():
    f, both = branches(), Several(MOVES)
    found, alone = values(both, f), [values(m, f) for m in MOVES]
    for k, terms in enumerate(alone, start=1):
        for name in ("edit", "contrast", "inpaint"):
            assert found[f"{name} {k}"] == pytest.approx(terms[name])
    assert [n for n in found if "content" in n] == ["content"]
    shares = [set(m.regions(FRAME).share.tolist()) for m in MOVES]
    assert set(both.regions(FRAME).share.tolist()) == shares[0] & shares[1]


def test_one_edit_in_a_list_is_that_edit():
    f = branches()
    alone, listed = values(MOVES[0], f), values(Several(MOVES[:1]), f)
    assert {n.removesuffix(" 1"): v for n, v in listed.items()} == pytest.approx(alone)
    z = torch.randn(1, 4, *FRAME.latent)
    one = Several(MOVES[:1])
    assert torch.equal(one.start(z, (), one.regions(FRAME)), MOVES[0].start(z, (), MOVES[0].regions(FRAME)))


def test_what_another_edit_fills_is_not_vacated():
    onto = Several([Move(A, by=(16, 8)), Move(B, by=(-64, -16))])  # the second goes partly where the first was
    first, second = (m.regions(FRAME) for m in onto.edits)
    left = set(first.inpaint.tolist()) - set(second.gen.tolist())
    part = onto.regions(FRAME).parts[0].inpaint
    assert left and set(part.tolist()) == left
    assert set(second.gen.tolist()) & set(first.inpaint.tolist())


def test_every_start_is_carried_out_and_the_rest_of_the_noise_stays():
    z, both = torch.randn(1, 4, *FRAME.latent), Several(MOVES)
    m = both.regions(FRAME)
    started = both.start(z, (), m)
    for move in MOVES:
        own = move.regions(FRAME)
        assert torch.equal(started[0][:, own.landing], move.start(z, (), own)[0][:, own.landing])
    untouched = ~torch.stack([move.regions(FRAME).landing for move in MOVES]).any(0)
    assert torch.equal(started[0][:, untouched], z[0][:, untouched])
    assert torch.equal(m.edited, torch.stack([x.regions(FRAME).edited for x in MOVES]).any(0))


def test_references_and_attention_contexts_are_shared_out_in_order():
    paint = Appearance(A, REFERENCE, IN_REFERENCE)
    paste = Paste(picture(128, 64, 4), box(128, 64, 64, 8, 96, 40), at=(96, 40))
    both = Several([paint, MOVES[1], paste])
    assert both.references == paint.references + paste.references and both.kind == "appearance"
    m = both.regions(FRAME)
    own, gud, ref_a, ref_b = torch.randn(2, 128, 6), *(torch.randn(1, n, 6) for n in (128, 64, 128))
    seen = both.context(own, gud, (ref_a, ref_b), m)
    one, two = paint.regions(FRAME), paste.regions(FRAME)
    gud_tokens = sorted(set(one.tokens[128].tolist()) & set(two.tokens[128].tolist()))
    expected = [gud[:, gud_tokens], ref_a[:, one.ref_tokens[0][64]], ref_b[:, two.ref_tokens[0][128]]]
    assert torch.equal(seen, torch.cat(expected, 1))
    refs = torch.randn(1, 5, 16, 16), torch.randn(1, 5, 32, 16)
    w, f = Guidance.preset("iclr", "appearance"), branches(refs)
    alone = values(paint, Branches(f.gen, f.gud, refs[:1], 2), w), values(paste, Branches(f.gen, f.gud, refs[1:], 2), w)
    found = values(both, f, w)
    assert found["edit 1"] == pytest.approx(alone[0]["edit"]) and found["edit 3"] == pytest.approx(alone[1]["edit"])


def test_places_are_known_if_every_edit_knows_its_own():
    was, target, _ = Several(MOVES).places(FRAME)
    assert torch.equal(was, A | B) and torch.equal(target, MOVES[0].target() | MOVES[1].target())

    class Mine(Edit):
        def terms(self, f, m, w):
            yield from ()

    assert Several([MOVES[0], Mine()]).places(FRAME) is None


def test_lists_open_up_and_nonsense_is_refused():
    nested = Several([Several(MOVES), Drag([(20, 20, 40, 30)])])
    assert nested.edits[:2] == tuple(MOVES) and len(nested.edits) == 3
    for wrong, word in (([], "at least one"), ("move", "at least one"), ([MOVES[0], 3], "int")):
        with pytest.raises(InputError, match=word):
            Several(wrong)


def test_a_list_runs_like_several_and_moves_both_objects():
    model, image = tiny_model(), picture(64, 128)
    w = Guidance.preset("iclr").replace(steps=3)
    listed = editor.edit(model, image, MOVES, guidance=w, progress=False)
    named = editor.edit(model, image, edits=MOVES, guidance=w, progress=False)
    alone = editor.edit(model, image, MOVES[0], guidance=w, progress=False)
    assert torch.equal(listed.tensor, named.tensor) and not torch.equal(listed.tensor, alone.tensor)
    assert set(listed.trace.energies) >= {"edit 1", "edit 2", "content"} and hooks(model) == 0
    assert listed.nfe == alone.nfe  # one run, whatever the number of edits
    for bad in ({}, {"edit": MOVES[0], "edits": MOVES}):
        with pytest.raises(InputError, match="give one of the two"):
            editor.edit(model, image, guidance=w, progress=False, **bad)


def test_edits_of_several_kinds_with_two_references_run():
    model, image = tiny_model(), picture(64, 128)
    edits = [
        Appearance(A, REFERENCE, IN_REFERENCE),
        Paste(picture(128, 64, 4), box(128, 64, 64, 8, 96, 40), at=(96, 40)),
        Drag([(40, 20, 50, 30)]),
    ]
    w = Guidance.preset("iclr", "appearance").replace(steps=2)
    result = editor.edit(model, image, edits, guidance=w, progress=False)
    assert result.tensor.isfinite().all() and result.tensor.shape == (3, 64, 128)
    assert result.nfe == 3 * 2 + 2 + 1 and {"edit 1", "edit 2", "edit 3"} <= set(result.trace.energies)
