"""The hub: the local cache first, then the network of a server that stands for it, and every way that can fail."""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch

from dragonkit.errors import InputError
from dragonkit.loading import hub
from dragonkit.loading.hub import weights_of
from dragonkit.models import CARDS, load
from tests.families import edited_json, family_pipeline

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as its client asks for: lists of files, and files. ``root`` holds owner/name folders."""

    def __init__(self, root, asked, *args):
        self.root, self.asked = root, asked
        super().__init__(*args)

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0].removeprefix("/api/models")
        owner, name, *rest = path.strip("/").split("/")
        folder = self.root / owner / name
        if owner == "gated":
            if not path.startswith("/gated/listed") or "resolve" in rest:
                return self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        if not folder.is_dir():
            return self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        if self.path.startswith("/api/models"):
            found = [(p.relative_to(folder).as_posix(), p.stat().st_size) for p in folder.rglob("*") if p.is_file()]
            data = [{"type": "file", "path": name, "size": size, "oid": "0"} for name, size in sorted(found)]
            return self.answer(200, json.dumps(data).encode())
        file = folder / "/".join(rest[2:])
        if not file.is_file():
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        data = file.read_bytes()
        return self.answer(200, data, {"ETag": f'"{len(data)}-{file.name}"', "X-Repo-Commit": COMMIT})

    def answer(self, status, data, headers=None):
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A hub on this machine: its root folder, its address, and what was asked of it."""
    root, asked = tmp_path_factory.mktemp("hub"), []
    family_pipeline("sdxl").save_pretrained(root / "owner" / "xl")
    family_pipeline("sd15").save_pretrained(root / "owner" / "half", variant="fp16")
    (root / "owner" / "xl" / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    whole = shutil.copytree(root / "owner" / "half", root / "owner" / "pickles")
    for file in list(whole.rglob("*.safetensors")):
        file.rename(file.with_suffix(".bin"))
    shutil.copytree(root / "owner" / "half", root / "gated" / "listed")
    flux = root / "owner" / "flux"
    flux.mkdir()
    (flux / "model_index.json").write_text(
        json.dumps({"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]})
    )
    paint = shutil.copytree(root / "owner" / "half", root / "owner" / "inpainting")
    edited_json(paint / "unet" / "config.json", in_channels=9)
    (root / "owner" / "single").mkdir()
    (root / "owner" / "single" / "model.safetensors").write_bytes(b"")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, root, asked))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield root, f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()


PIPELINES = {
    "owner/none": "'owner/none' is not on the hub, or is private",
    "owner/flux": "'owner/flux' is a FluxPipeline with a transformer",
    "owner/inpainting": "takes 9 channels and gives 4, an inpainting model",
    "owner/single": "'owner/single' on the hub has no model_index.json: name a model in the diffusers layout",
    "gated/closed": "'gated/closed' is gated: accept its licence",
    "owner/xl": "",  # in the cache by then
}
"""What diffusers' way to load a pipeline is asked for, and what is said."""

CODE = """
import sys, json, urllib.request, dragonkit as dk
from dragonkit.errors import InputError
for name in sys.argv[2:]:
    if name == "MARK":
        urllib.request.urlopen(sys.argv[1] + "/owner/half/resolve/main/model_index.json?MARK").read()
        continue
    try:
        if name.startswith("pipeline "):
            cached = {"local_files_only": True} if name.endswith("/xl") else {}
            m = dk.DragonDiffusionPipeline.from_pretrained(name.removeprefix("pipeline "), **cached).model
        else:
            m = dk.load(name, device="cpu")
        print(json.dumps([name, sorted(m.parts), m.unet.conv_in.weight.double().sum().item()]))
    except InputError as error:
        print(json.dumps([name, str(error)]))
"""


@pytest.fixture(scope="module")
def answers(served, tmp_path_factory):
    """What a process with an empty cache makes of these names, and of two again, and what was asked of the hub."""
    _, endpoint, asked = served
    names = [
        "owner/xl", "owner/half", "owner/pickles", "owner/flux", "owner/inpainting", "owner/single", "owner/none",
        "gated/closed", "gated/listed", *(f"pipeline {name}" for name in PIPELINES), "MARK", "owner/xl", "owner/half",
    ]  # fmt: skip
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {
        "HF_HOME": str(tmp_path_factory.mktemp("cache")), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", CODE, endpoint, *names], env=env, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    mark = next(k for k, line in enumerate(asked) if "MARK" in line)
    first, again = lines[:-2], lines[-2:]
    return {name: rest for name, *rest in first}, asked[:mark], {name: rest for name, *rest in again}, asked[mark + 1 :]


def test_a_model_on_the_hub_is_downloaded_and_is_the_one_there(served, answers):
    root, (first, seen) = served[0], answers[:2]
    for name in ("owner/xl", "owner/half"):
        there = load(root / name, device="cpu")
        assert first[name] == [sorted(there.parts), there.unet.conv_in.weight.double().sum().item()]
    fetched = [line for line in seen if "/owner/xl/resolve/" in line]
    assert any("unet/diffusion_pytorch_model.safetensors" in line for line in fetched)
    assert not any(".bin" in line for line in seen)  # no pickle is even asked for


def test_what_is_in_the_cache_asks_the_network_nothing(answers):
    first, _, again, asked = answers
    assert again == {name: first[name] for name in ("owner/xl", "owner/half")} and asked == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("owner/pickles", "'owner/pickles' on the hub has only pickles such as unet/"),
        ("owner/flux", "'owner/flux' is a FluxPipeline with a transformer: give a text-to-image model"),
        ("owner/inpainting", "takes 9 channels and gives 4, an inpainting model"),
        ("owner/single", "has no model_index.json: download model.safetensors and give its path"),
        ("owner/none", "'owner/none' is not on the hub, or is private: check the spelling, or log in"),
        ("gated/closed", "'gated/closed' is gated: accept its licence on its page on the hub, then log in"),
        ("gated/listed", "'gated/listed' is gated: accept its licence"),
    ],
)
def test_what_the_hub_cannot_give_is_one_clear_line(answers, name, message):
    (said,) = answers[0][name]
    assert message in said and "\n" not in said
    weights = [line for line in answers[1] if f"/{name}/" in line and line.endswith((".bin", ".safetensors"))]
    assert weights == []  # refused before a weight was downloaded


@pytest.mark.parametrize(("name", "message"), PIPELINES.items())
def test_a_pipeline_on_the_hub_is_looked_at_before_its_weights_are_downloaded(answers, name, message):
    first = answers[0]
    said = first[f"pipeline {name}"]
    if not message:
        assert said == first[name]
        return
    assert len(said) == 1 and message in said[0] and "\n" not in said[0]


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_network_the_line_says_so(monkeypatch, offline):
    client = logging.getLogger("huggingface_hub.utils._http")
    before, told = client.isEnabledFor(logging.WARNING), []

    def refused(*args, **kwargs):
        told.append(client.isEnabledFor(logging.WARNING))  # of every attempt
        raise ConnectionRefusedError("nothing listens there")

    if offline:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    else:  # what the client raises in the end, after half a minute of trying
        monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", refused)
    with pytest.raises(InputError, match="'owner/name' is not in the local cache and cannot be downloaded") as error:
        load("owner/name", device="cpu")
    assert "connect to the network, or give a folder" in str(error.value) and "\n" not in str(error.value)
    assert True not in told and client.isEnabledFor(logging.WARNING) == before


FILES = ["vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"]


def test_half_precision_fetches_the_weights_that_are_stored_so():
    both = FILES + ["unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.safetensors"]
    other = ["unet/diffusion_pytorch_model.non_ema.safetensors", "unet/openvino_model.bin", "unet/config.json"]
    half, full = (list(weights_of("a/b", both + other, dtype)) for dtype in (torch.float16, torch.float32))
    assert half == ["unet/diffusion_pytorch_model.fp16.safetensors", *FILES]
    assert full == ["unet/diffusion_pytorch_model.safetensors", *FILES]
    only = FILES + ["unet/diffusion_pytorch_model.fp16.safetensors"]
    assert list(weights_of("a/b", only, torch.float32))[0] == only[-1]
    shards = [f"unet/diffusion_pytorch_model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    shards.append("unet/diffusion_pytorch_model.safetensors.index.json")
    assert list(weights_of("a/b", FILES + shards, torch.float32))[:3] == shards
    with pytest.raises(InputError, match="'a/b' on the hub has no weights for unet"):
        list(weights_of("a/b", [*FILES, "unet/config.json"], torch.float32))


def test_an_incomplete_copy_in_the_cache_is_completed_and_a_wrong_model_is_not(monkeypatch, tmp_path):
    pipe = family_pipeline("sd15")
    pipe.save_pretrained(tmp_path / "copy")
    (tmp_path / "copy" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    fetched = []

    def offline(repo, dtype):
        raise ConnectionRefusedError("nothing listens there")

    def download(repo, dtype):
        fetched.append(repo)
        pipe.save_pretrained(tmp_path / "copy")
        return tmp_path / "copy"

    monkeypatch.setattr(hub, "cached", lambda repo, file: tmp_path / "copy" / file)
    monkeypatch.setattr(hub, "_download", offline)
    with pytest.raises(InputError, match=r"is in the local cache in part \(no vae/\*.safetensors in .*\) and cannot"):
        load("sd15", device="cpu")
    monkeypatch.setattr(hub, "_download", download)
    assert load("sd15", device="cpu").card is CARDS["sd15"] and fetched == [CARDS["sd15"].source]
    load("sd15", device="cpu")
    edited_json(tmp_path / "copy" / "unet" / "config.json", in_channels=8)
    with pytest.raises(InputError, match="an instruct-pix2pix model"):
        load("sd15", device="cpu")
    assert len(fetched) == 1


@pytest.mark.parametrize("whole", [False, True])
def test_an_autoencoder_is_taken_from_the_cache(monkeypatch, tmp_path, whole):
    pipe = family_pipeline("sd15", seed=1)
    (pipe if whole else pipe.vae).save_pretrained(tmp_path / "copy")
    asked = []

    def there(repo, file):
        asked.append(repo)
        return tmp_path / "copy" / file if (tmp_path / "copy" / file).is_file() else None

    monkeypatch.setattr(hub, "cached", there)
    model = load("mini", device="cpu", vae="owner/vae")
    assert torch.equal(model.vae.decoder.conv_in.weight, pipe.vae.decoder.conv_in.weight) and {*asked} == {"owner/vae"}


def test_the_cards_name_repositories_that_are_there():
    sources = {name: card.source for name, card in CARDS.items() if "/" in card.source}
    assert set(sources) == {"sd15", "sd21", "sd21-base", "sdxl"}
    assert not any(source.startswith(("runwayml/", "stabilityai/stable-diffusion-2")) for source in sources.values())
    assert all(card.licence != "unknown" for card in CARDS.values())
    assert Path(CARDS["mini"].source) == Path("mini")
