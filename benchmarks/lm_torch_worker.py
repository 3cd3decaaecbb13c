"""The PyTorch side of `benchmarks.lm_torch`, for a Python that has torch, transformers and trl.

Reads a job a line, `{"job": "decode", ...}`, and answers with a line of JSON: seconds by the clock
and of the processors, or what was computed. Not started by hand.
"""

import json
import queue
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

ALPHABET = "_$;#0123456789+-*/%=()<>,:?![]~@.& abcdefghijklmnopqrstuvwxyz"
END, PAID = ALPHABET.index("$"), ALPHABET.index("a")


def load(folder):
    folder = Path(folder)
    config = LlamaConfig(**json.loads((folder / "config.json").read_text()))
    model = LlamaForCausalLM(config).float().eval()
    with np.load(folder / "weights.npz") as held:
        weights = {name: torch.from_numpy(held[name]) for name in held.files}
    model.load_state_dict(weights, strict=False)
    return model


def write(model, prompts, length, **options):
    """Exactly `length` new tokens for every row."""
    known = {"attention_mask": torch.ones_like(prompts), "pad_token_id": 0}
    return model.generate(
        prompts, max_new_tokens=length, min_new_tokens=length, eos_token_id=END, **known, **options
    )


def greedy(model, job):
    prompts = torch.tensor([job["prompt"]])
    made = model.generate(
        prompts,
        max_new_tokens=job["tokens"],
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        attention_mask=torch.ones_like(prompts),
    )
    with torch.no_grad():
        logits = model(made).logits[0]
    return {"tokens": made[0].tolist(), "logits": logits[:: job["every"]].tolist()}


def timed(function):
    clock, work = time.perf_counter(), time.process_time()
    function()
    return {"clock": time.perf_counter() - clock, "work": time.process_time() - work}


def decode(model, job):
    prompts = torch.tensor([job["prompt"]] * job["rows"])
    with torch.no_grad():
        return timed(lambda: write(model, prompts, job["tokens"], do_sample=False))


def prefill(model, job):
    prompts = torch.tensor([job["prompt"]])
    with torch.no_grad():
        return timed(lambda: model(prompts, logits_to_keep=1))


class Plain:
    """Policy gradient on groups as a page of PyTorch."""

    def __init__(self, folder, job):
        self.model, self.job = load(folder), job
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)

    def step(self):
        rows, length, group = self.job["rows"], self.job["tokens"], self.job["group"]
        prompts = torch.randint(4, 14, (rows // group, self.job["prompt"]))
        prompts = prompts.repeat_interleave(group, 0)
        with torch.no_grad():
            made = write(self.model, prompts, length, do_sample=True, top_k=0)
        own = made[:, prompts.shape[1] :]
        reward = (own == PAID).float().mean(1).view(-1, group)
        advantage = (reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-6)
        logits = self.model(made).logits[:, prompts.shape[1] - 1 : -1]
        logp = torch.log_softmax(logits, -1).gather(-1, own[..., None])[..., 0]
        loss = -(torch.exp(logp - logp.detach()) * advantage.view(-1, 1)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class Trl:
    """TRL's trainer, stopped after every step until the next one is asked for."""

    def __init__(self, folder, job):
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        self.go, self.done = queue.Queue(), queue.Queue()
        words = Tokenizer(models.WordLevel({c: i for i, c in enumerate(ALPHABET)}, unk_token="_"))
        words.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        words = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="_", eos_token="$")
        generator = torch.Generator().manual_seed(0)
        digits = torch.randint(0, 10, (512, job["prompt"]), generator=generator)
        prompts = ["".join(map(str, row)) for row in digits.tolist()]
        worker = self

        class Gate(TrainerCallback):
            def on_step_begin(self, args, state, control, **given):
                worker.go.get()
                self.clock, self.work = time.perf_counter(), time.process_time()

            def on_step_end(self, args, state, control, **given):
                clock, work = time.perf_counter() - self.clock, time.process_time() - self.work
                worker.done.put({"clock": clock, "work": work})

        config = GRPOConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=job["rows"],
            num_generations=job["group"],
            max_completion_length=job["tokens"],
            generation_kwargs={"min_new_tokens": job["tokens"]},
            learning_rate=1e-3,
            beta=0.0,
            top_k=0,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            max_steps=1_000,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )

        def reward(completion_ids, **given):
            return [sum(t == PAID for t in row) / len(row) for row in completion_ids]

        trainer = GRPOTrainer(
            model=load(folder),
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            processing_class=words,
            callbacks=[Gate()],
        )
        threading.Thread(target=trainer.train, daemon=True).start()

    def timed_step(self):
        self.go.put(None)
        return self.done.get(timeout=300)


def main(large, small):
    out, sys.stdout = sys.stdout, sys.stderr
    model, learners = None, {}
    for line in sys.stdin:
        job = json.loads(line)
        kind = job["job"]
        if kind in ("plain", "trl"):
            if kind not in learners:
                learners[kind] = (Plain if kind == "plain" else Trl)(small, job)
            learner = learners[kind]
            found = learner.timed_step() if kind == "trl" else timed(learner.step)
        else:
            model = load(large) if model is None else model
            found = {"greedy": greedy, "decode": decode, "prefill": prefill}[kind](model, job)
        print(json.dumps(found), file=out, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
