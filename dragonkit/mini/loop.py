"""What a training loop needs beside its loss: processes, a clock and an optimiser with averaged weights."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Run:
    """Where this process stands among the others, its device and its log."""

    def __init__(self, out: Path) -> None:
        """Join the process group, if there is one."""
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.gpu = self.device.type == "cuda"
        if self.world > 1:
            dist.init_process_group("nccl" if self.gpu else "gloo")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        torch.manual_seed(self.rank)
        self.out, self.start = out, time.time()
        out.mkdir(parents=True, exist_ok=True)

    def log(self, *words: object) -> None:
        """Print and keep one line, on the first process only."""
        if self.rank == 0:
            line = f"[{time.time() - self.start:7.1f}s] " + " ".join(map(str, words))
            print(line, flush=True)
            with (self.out / "log.txt").open("a") as file:
                file.write(line + "\n")

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over processes."""
        if self.world > 1:
            dist.all_reduce(value)
            value /= self.world
        return value

    def done(self, start: float, seconds: float) -> float:
        """The share of a stage's time that is over, the same on every process."""
        share = torch.tensor([(time.time() - start) / max(seconds, 1e-9)], device=self.device)
        return float(self.mean(share))

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            dist.barrier()

    def leave(self) -> None:
        """Wait for the others, then leave the group."""
        self.wait()
        if self.world > 1:
            dist.destroy_process_group()

    def autocast(self) -> torch.autocast:
        """Training runs in bfloat16 where arithmetic allows."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


class Optimiser:
    """AdamW with gradient averaging over processes, clipping and an exponential moving average of the weights."""

    def __init__(self, run: Run, modules: list[nn.Module], rate: float, decay: float, average: float) -> None:
        """``rate``: peak learning rate; ``decay``: weight decay; ``average``: the EMA's decay a step."""
        self.run, self.rate, self.average, self.steps = run, rate, average, 0
        self.parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
        self.adam = torch.optim.AdamW(self.parameters, rate, betas=(0.9, 0.99), weight_decay=decay, fused=run.gpu)
        self.ema = [p.detach().clone() for p in self.parameters]

    def step(self, loss: Tensor, progress: float) -> None:
        """One update; ``progress`` in [0, 1] places it on the schedule: short warm-up, constant, cosine to zero."""
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        if self.run.world > 1:
            gradients = [p.grad for p in self.parameters if p.grad is not None]
            flat = self.run.mean(torch._utils._flatten_dense_tensors(gradients))
            for g, mean in zip(gradients, torch._utils._unflatten_dense_tensors(flat, gradients), strict=True):
                g.copy_(mean)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        late = max(0.0, (progress - 0.35) / 0.65)
        rate = self.rate * min(1.0, (self.steps + 1) / 250) * (0.5 + 0.5 * math.cos(math.pi * min(late, 1.0)))
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        self.steps += 1
        with torch.no_grad():
            decay = min(self.average, (1 + self.steps) / (10 + self.steps))
            torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)

    def swap(self) -> None:
        """Exchange the weights and their average."""
        with torch.no_grad():
            for p, q in zip(self.parameters, self.ema, strict=True):
                kept = p.clone()
                p.copy_(q)
                q.copy_(kept)


def clocked(run: Run, seconds: float) -> Iterator[float]:
    """Progress from 0 to 1 as ``seconds`` pass; processes agree on it every 50 steps."""
    start, progress, rate, step, looked = time.time(), 0.0, 0.0, 0, (0.0, 0)
    while progress < 1:
        yield progress
        step += 1
        if step in (5, 20) or step % 50 == 0:  # extrapolate between looks: a look costs a synchronisation
            progress = run.done(start, seconds)
            rate = (progress - looked[0]) / (step - looked[1]) if looked[1] else 0.0  # the first steps compile
            looked = (progress, step)
        else:
            progress = min(progress + rate, 0.999)
