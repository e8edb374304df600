"""Real worker processes on free ports, serving a tiny random Llama: the tools; the fixtures are in conftest."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llorch.wire.sse import EventReader

READY_S = 60.0


CONTEXT = 2048


VOCAB = 384


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_tokenizer(directory: Path) -> None:
    """A byte-level BPE with control tokens; it puts <s> first."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(
        ["once upon a time there was a little fox who liked the sea and the stars"] * 9, trainer
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": CHATML}
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def write_model(directory: Path) -> None:
    """Random weights; the end-of-text token is never the likeliest, so that texts are long."""
    import torch
    from safetensors.torch import save_file

    hidden, middle, layers, heads, head = 64, 96, 2, 2, 32
    shapes = {"embed_tokens": (VOCAB, hidden), "norm": (hidden,)}
    for n in range(layers):
        shapes |= {
            f"layers.{n}.self_attn.q_proj": (heads * head, hidden),
            f"layers.{n}.self_attn.k_proj": (head, hidden),
            f"layers.{n}.self_attn.v_proj": (head, hidden),
            f"layers.{n}.self_attn.o_proj": (hidden, heads * head),
            f"layers.{n}.mlp.gate_proj": (middle, hidden),
            f"layers.{n}.mlp.up_proj": (middle, hidden),
            f"layers.{n}.mlp.down_proj": (hidden, middle),
            f"layers.{n}.input_layernorm": (hidden,),
            f"layers.{n}.post_attention_layernorm": (hidden,),
        }
    generator = torch.Generator().manual_seed(7)
    tensors = {
        f"model.{name}.weight": torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=generator) * 0.2
        for name, shape in shapes.items()
    }
    tensors["lm_head.weight"] = torch.randn((VOCAB, hidden), generator=generator) * 0.2
    tensors["lm_head.weight"][2] = 0.0
    save_file(tensors, str(directory / "model.safetensors"), {"format": "pt"})
    config = {
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": hidden,
        "intermediate_size": middle,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 1,
        "head_dim": head,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_tokenizer(directory)


class Stream:
    """One `/execute` stream."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self.connection = connection
        self.response = response
        self.status = response.status
        self._events = self._read()

    def _read(self) -> Iterator[dict[str, Any]]:
        reader = EventReader()
        while data := self.response.read1(65536):
            for event in reader.feed(data):
                yield event.data

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._events

    def until(self, kind: str) -> dict[str, Any]:
        """The next event of a type."""
        return next(event for event in self._events if event["type"] == kind)

    def close(self) -> None:
        """Hang up."""
        self.response.close()
        self.connection.close()


class Worker:
    """A running worker process and a client for it."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log_path: Path) -> None:
        self.process = process
        self.url = url
        self.port = urlsplit(url).port or 0
        self.log_path = log_path

    def _open(
        self, method: str, path: str, body: object, headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, data, headers)
        return connection, connection.getresponse()

    def call(
        self, path: str, body: object = None, *, method: str = "", **headers: str
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Status, JSON body and headers; POST when there is a body. Header names take _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection, response = self._open(method or ("GET" if body is None else "POST"), path, body, named)
        with contextlib.closing(connection):
            data = response.read()
            is_json = (response.getheader("Content-Type") or "").startswith("application/json")
            parsed = json.loads(data) if is_json else {"text": data.decode()}
            return response.status, parsed, {name.lower(): value for name, value in response.getheaders()}

    def execute(self, body: dict[str, Any], **headers: str) -> Stream:
        """Open a stream."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Stream(*self._open("POST", "/execute", body, named))

    def generate(self, **body: Any) -> list[dict[str, Any]]:
        """All events of a job."""
        stream = self.execute(body)
        with contextlib.closing(stream):
            assert stream.status == 200
            return list(stream)

    def health(self) -> dict[str, Any]:
        """GET /health."""
        return self.call("/health")[1]

    def until_slots_busy(self, count: int, timeout_s: float = 10.0) -> None:
        """Wait until that many slots are taken."""
        eventually(lambda: self.health()["slots_busy"] == count, timeout_s)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for a condition, with a deadline."""
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, "the condition did not come true in time"
        time.sleep(0.005)


def text_of(events: list[dict[str, Any]]) -> str:
    """The text of a job's token events."""
    return "".join(event["t"] for event in events if event["type"] == "token")


def ids_of(events: list[dict[str, Any]]) -> list[int]:
    """The token ids of a job's token events."""
    return [token_id for event in events if event["type"] == "token" for token_id in event["ids"]]


def environment(home: Path) -> dict[str, str]:
    """An empty home, and nothing of the outer LLORCH settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLORCH_", "XDG_"))}
    return {**kept, "HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}


Starter = Callable[..., Worker]


@contextlib.contextmanager
def starting(base: Path) -> Iterator[Starter]:
    """`start(*flags, **env)` -> a ready worker; all are stopped at the end."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*flags: str, **env: str) -> Worker:
        place = base / f"worker{len(processes)}"
        place.mkdir()
        status, log_path = place / "status.json", place / "log"
        argv = [sys.executable, "-m", "llorch", "worker", "--port", "0", "--threads", "1", *flags]
        with open(log_path, "wb") as log:
            process = subprocess.Popen(
                argv, env={**environment(place), "LLORCH_STATUS_FILE": str(status), **env}, stderr=log, stdout=log
            )
        processes.append(process)
        give_up_at = time.monotonic() + READY_S
        while True:
            said = json.loads(status.read_text()) if status.exists() else {}
            if said.get("state") == "ready":
                return Worker(process, said["url"], log_path)
            assert process.poll() is None and time.monotonic() < give_up_at, log_path.read_text()
            time.sleep(0.02)

    try:
        yield start
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
