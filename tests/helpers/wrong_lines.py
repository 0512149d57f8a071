"""Wrong command lines, by kinds: what each command's own options make wrong by themselves, and a table by hand.

Places stand in braces: see `places` in `test_wrong_lines.py`. Each line is (status, words).
"""

import contextlib
import io

from alphaflow.cli import COMMANDS, Parser, run

BASES = {
    "train": "digits --out {out} --steps 1",
    "sample": "{run} --out {out}.npz",
    "evaluate": "{run} --count 16",
    "compare": "{evaluation} {evaluation}",
    "export": "{run} {out}",
    "diagnose": "{run} --batches 2",
    "report": "{run}",
    "ema": "{run} --std 0.1",
    "bench": "--model S/16 --size 16 --rounds 1 --batch 1 --shares 50 --ways fused",
    "encode": "{pictures} {out} --vae {none}",
    "inspect": "{latents}",
    "import": "{model}/model.safetensors {out}",
    "stats": "digits {out}.npz --detector digits",
    "demo": "{run} --port 0",
    "recipes": "",
}
"""A line of each command that would be right (or wrong in what comes last: a missing autoencoder)."""


def parsers(monkeypatch) -> dict[str, list[Parser]]:
    """What each command reads its words with."""
    return {command: parsers_of([command], monkeypatch) for command in COMMANDS}


def parsers_of(words: list[str], monkeypatch) -> list[Parser]:
    """What a line that begins with these words is read with."""
    made: list[Parser] = []
    plain = Parser.__init__

    def note(self, **settings):
        made.append(self)
        plain(self, **settings)

    with monkeypatch.context() as patch, contextlib.suppress(SystemExit):
        patch.setattr(Parser, "__init__", note)
        with contextlib.redirect_stdout(io.StringIO()):
            run([*words, "--help"])
    return made


def of_options() -> dict[str, list[str]]:
    """By command, what can be wrong with every option: its value is missing, empty, no number, not finite, no
    choice; its name is cut short or runs on."""
    import pytest

    with pytest.MonkeyPatch.context() as patch:
        found = parsers(patch)
    lines: dict[str, list[str]] = {}
    for command, base in BASES.items():
        beside = ("--nonsense", "--nonsense 3", "one-word-too-many", "-x")
        lines[command] = [f"{command} {base} {words}" for words in beside]
        for parser in found[command]:
            for action in parser._actions:
                names = action.option_strings
                if not names or action.dest == "help":
                    continue
                lines[command] += _of_option(f"{command} {base}", names[0], action)
    return lines


def _of_option(line: str, name: str, action) -> list[str]:
    wrong = [f"{name}x 1"]
    if len(name) > 5:
        wrong.append(f"{name[:-1]} 1")  # no abbreviations
    if action.nargs == 0:
        return [f"{line} {one}" for one in (*wrong, f"{name}=1")]
    wrong += [f"{name} ''", f"{name}="]
    if action.nargs != "*":
        wrong.append(name)
    kind = getattr(action.type, "__name__", "")
    if action.type in (int, float) or kind == "read":  # of words.number
        wrong += [f"{name} {word}" for word in ("many", "nan", "inf", "1e999", "0x10", "1,5")]
    if action.choices:
        wrong.append(f"{name} neither")
    return [f"{line} {one}" for one in wrong]


TRAIN = "train digits --out {out} --steps 1 "
BY_HAND = """
2 trian digits --out {out}
2 --out {out}
2 TRAIN digits --out {out}
2 ''
2 ' '
2 train
2 train --out {out}
2 train '' --out {out}
2 train digts --out {out}
2 train Digits --out {out}
2 train digits
2 train digits --out
2 train digits --out ''
1 train digits --out {file}
1 train digits --out {file}/run
1 train digits --out {pictures}
1 train toy --out {pictures} --continue
1 train toy --out {latents}
2 train digits --out ' '
2 train digits --out /
2 train digits --out //
2 train digits --out '~'
2 train digits --out '~/runs'
2 train digits --out '~nobody/runs'
2 train digits --out={out} --ou {out}
2 train digits --ou {out}
2 train digits --outt {out}
2 train digits toy --out {out}
2 train toy --recipe digits --out {out}
2 train toy --recipe toy --out {out}
1 train digits --steps 1 --out /dev/null/run
1 train digits --steps 1 --out {file}
1 train digits --steps 1 --out {file}/run
1 train digits --steps 1 --out {run}
1 train digits --steps 1 --out /proc/run
1 train digits --steps 1 --out {out}/LONG
1 train digits --steps 1 --out {empty}/LONG
2 TRAIN --stop-after 0
2 TRAIN --stop-after -1
2 TRAIN --stop-after 1.5
2 TRAIN --continue --resume {run}
2 TRAIN --resume {run}
2 TRAIN --gpus 4
2 TRAIN --mfu 0.4
2 train digits --dry-run --gpus 0
2 train digits --dry-run --gpus -2
2 train digits --dry-run --mfu 0
2 train digits --dry-run --mfu 1.5
2 train digits --dry-run --mfu nan
2 train digits --dry-run --gpus 3
2 train digits --dry-run --resume {run}
2 train digits --dry-run --continue
2 train --dry-run
2 train --resume
2 train --resume ''
2 train --resume /
2 train --resume '~/run'
1 train --resume {none}
1 train --resume {file}
1 train --resume {empty}
2 train --resume {run} --batch-size 8
2 train --resume {run} --optimizer.lr 1e-5
2 train --resume {run} --optimizer.lr=1e-5
2 train --resume {run} --optimizer.lrr 1e-5
2 train --resume {run} --seed 3
2 train --resume {run} --objective.name meanflow
2 train --resume {run} --steps 0
2 train --resume {run} --steps many
2 train --resume {run} --steps
2 train --resume {run} --device gpu
2 train --resume {run} --accumulate 0
2 train --resume {run} --accumulate 3
2 train --resume {run} --parallel.strategy zero
2 train --resume {run} {run}
2 train digits --resume {run}
2 train --resume {run} --out {out}
2 TRAIN --steps 0
2 TRAIN --steps -3
2 TRAIN --steps 1.5
2 TRAIN --steps 1e3
2 TRAIN --steps 1000000000000000
2 TRAIN --schedule-steps 100
2 TRAIN --batch-size 0
2 TRAIN --batch-size many
2 TRAIN --batch-size 99999999999
2 TRAIN --batch-size 10 --accumulate 3
2 TRAIN --accumulate 0
2 TRAIN --seed x
2 TRAIN --seed 99999999999999999999
2 TRAIN --precision float16
2 TRAIN --device gpu
2 TRAIN --device cuda:0
2 TRAIN --compile perhaps
2 TRAIN --compile --compile-blocks
2 TRAIN --compile --recompute
2 TRAIN --log-every 0
2 TRAIN --checkpoint-every 0
2 TRAIN --keep-checkpoints 0
2 TRAIN --sample-every 0
2 TRAIN --max-bad-steps 0
2 TRAIN --spike-factor -1
2 TRAIN --spike-factor nan
2 TRAIN --peak-tflops inf
2 TRAIN --wandb 'my project'
2 TRAIN --wandb a/b
2 TRAIN --data.name digit
2 TRAIN --data.path {pictures}
2 TRAIN --data.size 64
2 TRAIN --data.frames 8
2 TRAIN --data.toy moons
2 TRAIN --data.labels x.csv
2 TRAIN --data.classes 99
2 TRAIN --data.classes cat
2 TRAIN --data.flip 2
2 TRAIN --data.classes ''
2 TRAIN --data.classes=
2 TRAIN --init ' '
2 train folder --out {out} --data.path {pictures} --data.labels ''
2 train folder --out {out}
2 train folder --out {out} --data.path ''
1 train folder --out {out} --data.path {none}
1 train folder --out {out} --data.path {file}
1 train folder --out {out} --data.path {empty}
2 train folder --out {out} --data.path {pictures} --data.size 0
2 train folder --out {out} --data.path {pictures} --data.size -16
2 train folder --out {out} --data.path {pictures} --data.size 18
2 train folder --out {out} --data.path {pictures} --data.size 1000000000000
2 train folder --out {out} --data.path {pictures} --data.tolerance 3
2 train folder --out {out} --data.path {pictures} --data.tolerance nan
2 train folder --out {out} --data.path {pictures} --data.crop middle
2 train folder --out {out} --data.path {pictures} --data.rate 8
2 train folder --out {out} --data.path {pictures} --model.name mlp
2 train folder --out {out} --data.path {pictures} --model.name video-dit
2 train toy --out {out} --data.toy spiral
2 train toy --out {out} --data.flip
2 train toy --out {out} --data.classes 1
2 train toy --out {out} --data.balanced
2 train toy --out {out} --model.heads 4
2 train toy --out {out} --model.patch 2
2 train toy --out {out} --model.name dit
2 train toy --out {out} --objective.label-drop 0.1
2 train toy --out {out} --objective.weight-power 0.5
2 train moving-digits --out {out} --data.size 8
2 train moving-digits --out {out} --data.frames 0
2 train moving-digits --out {out} --model.name dit
2 train latents --out {out}
1 train latents --out {out} --data.path {none}
1 train latents --out {out} --data.path {pictures}
2 TRAIN --model.width 0
2 TRAIN --model.width -8
2 TRAIN --model.width 7
2 TRAIN --model.width 1000000000000
2 TRAIN --model.width 65536 --model.depth 1024
2 TRAIN --model.width 65536 --model.depth 20
2 TRAIN --model.width 65536 --model.depth 20 --model.name unet --data.name toy
2 TRAIN --model.depth 0
2 TRAIN --model.depth -1
2 TRAIN --model.heads 0
2 TRAIN --model.heads 5
2 TRAIN --model.patch 0
2 TRAIN --model.patch 3
2 TRAIN --model.activation relu
2 TRAIN --model.attention joint
2 TRAIN --model.name unet --model.depth 5
2 TRAIN --model.name unet --model.patch 4
2 TRAIN --model.name unet --model.heads 4
2 TRAIN --model.guided
2 TRAIN --objective.name meanfow
2 TRAIN --objective.name ''
2 TRAIN --objective.alpha 2
2 TRAIN --objective.alpha -0.1
2 TRAIN --objective.alpha nan
2 TRAIN --objective.alpha 'sigmod(0, 1)'
2 TRAIN --objective.alpha 'linear(0, x)'
2 TRAIN --objective.alpha 'linear(9, 3)'
2 TRAIN --objective.alpha 'linear(0%, inf)'
2 TRAIN --objective.alpha 'linear(0, 5, first=2)'
2 TRAIN --objective.alpha 'step()'
2 TRAIN --objective.alpha 'step(1'
2 TRAIN --objective.alpha 'self(growth=0.5)'
2 TRAIN --objective.alpha 'exponential(0, 5, 1e-9)'
2 TRAIN --objective.flow-ratio 1.5
2 TRAIN --objective.flow-ratio 150%
2 TRAIN --objective.flow-ratio inf
2 TRAIN --objective.flw-ratio 0.5
2 TRAIN --objective.shift back
2 TRAIN --objective.derivative forwards
2 TRAIN --objective.coupling both
2 TRAIN --objective.t-law logitnormal
2 TRAIN --objective.t-law 'logit-normal(0)'
2 TRAIN --objective.t-law 'logit-normal(0, 0)'
2 TRAIN --objective.t-law 'logit-normal(nan, 1)'
2 TRAIN --objective.t-law 'uniform(0.5, 0.5)'
2 TRAIN --objective.t-law 'beta(0, 1)'
2 TRAIN --objective.t-law 'constant(7)'
2 TRAIN --objective.r-law 'arctan(0, -1)'
2 TRAIN --objective.flow-law 'uniform(0, 2)'
2 TRAIN --objective.coupling dyadic --objective.r-law uniform
2 TRAIN --objective.weight heavy
2 TRAIN --objective.weight-power nan
2 TRAIN --objective.weight-power -1
2 TRAIN --objective.weight-c 0
2 TRAIN --objective.weight uniform --objective.weight-power 2
2 TRAIN --objective.clip 0
2 TRAIN --objective.clip -4
2 TRAIN --objective.relaxation -1
2 TRAIN --objective.omega nan
2 TRAIN --objective.omega -1
2 TRAIN --objective.kappa 1
2 TRAIN --objective.guide-from 0.2
2 TRAIN --objective.guide-to 0.8
2 TRAIN --objective.label-drop 1.5
2 TRAIN --objective.label-drop 0.1 --objective.guide-from 2
2 TRAIN --objective.label-drop 0.1 --objective.guide-from 0.8 --objective.guide-to 0.2
2 TRAIN --objective.scales 1 4
2 TRAIN --model.guided --objective.scales 4
2 TRAIN --model.guided --objective.scales 2 4
2 TRAIN --model.guided --objective.scales 1 x
2 TRAIN --model.guided --objective.scales 1 inf
2 TRAIN --model.guided --objective.scales 1 4
2 TRAIN --objective.intervals
2 TRAIN --distill.guidance 2
2 TRAIN --distill.guide-to 0.5
2 TRAIN --distill.teacher {run} --distill.guidance -1
2 TRAIN --distill.teacher {run} --distill.guidance nan
2 TRAIN --distill.teacher {run} --distill.guidance 2 --distill.guide-from 0.9 --distill.guide-to 0.1
1 TRAIN --distill.teacher {none}
1 TRAIN --init {none}
2 TRAIN --init {file}
2 TRAIN --optimizer.lr 0
2 TRAIN --optimizer.lr -1
2 TRAIN --optimizer.lr nan
2 TRAIN --optimizer.lr inf
2 TRAIN --optimizer.lr fast
2 TRAIN --optimizer.beta1 1.5
2 TRAIN --optimizer.beta1 1
2 TRAIN --optimizer.beta2 2
2 TRAIN --optimizer.beta2 -0.1
2 TRAIN --optimizer.weight-decay -1
2 TRAIN --optimizer.weight-decay inf
2 TRAIN --optimizer.warmup -5
2 TRAIN --optimizer.warmup 0.5
2 TRAIN --optimizer.decay -1
2 TRAIN --optimizer.decay 'linear(0%, 100%, last=-1)'
2 TRAIN --optimizer.decay nan
2 TRAIN --optimizer.decay cosine
2 TRAIN --optimizer.clip -1
2 TRAIN --optimizer.clip nan
2 TRAIN --optimizer.clip inf
2 TRAIN --ema.half-life -3
2 TRAIN --ema.half-life nan
2 TRAIN --ema.ramp 0
2 TRAIN --ema.ramp -0.1
2 TRAIN --ema.profiles 0.5
2 TRAIN --ema.profiles 0.05 nan
2 TRAIN --ema.profiles 0
2 TRAIN --ema.store-every 5
2 TRAIN --ema.profiles 0.05 --ema.store-every -3
2 TRAIN --parallel.strategy zero
2 TRAIN --parallel.timeout 0
2 TRAIN --parallel.timeout nan
2 TRAIN --parallel.timeout 1e12
2 TRAIN --monitor.every -1
2 TRAIN --monitor.count 1
2 TRAIN --monitor.count 1000000000000
2 TRAIN --monitor.nfe 0
2 TRAIN --monitor.detector resnet
2 TRAIN --monitor.vae {none}
2 TRAIN --monitor.every 0 --monitor.nfe 2
1 TRAIN --monitor.reference {none}
2 TRAIN --diagnosis.every -1
2 TRAIN --diagnosis.batches 4
2 TRAIN --diagnosis.every 5 --diagnosis.batches 1
2 sample
2 sample --out {out}.npz
2 sample {run}
2 sample {run} --out ''
2 sample {run} --out /
2 sample {run} --out '~/x.npz'
2 sample '' --out {out}.npz
2 sample '~/run' --out {out}.npz
1 sample {none} --out {out}.npz
1 sample {file} --out {out}.npz
1 sample {empty} --out {out}.npz
1 sample {latents} --out {out}.npz
2 sample {run} --out {out}.jpg
2 sample {run} --out {out}.jpeg
2 sample {run} --out {out}.txt
2 sample {run} --out {out}.gif
2 sample {run} --out {out}.mp4
2 sample {run} --out {out}.NPY
2 sample {toy} --out {out}/
1 sample {run} --out /dev/null/s.npz
2 sample {run} --out {out}.npz --count 0
2 sample {run} --out {out}.npz --count -3
2 sample {run} --out {out}.npz --count 1000000000000000
2 sample {run} --out {out}.npz --nfe 0
2 sample {run} --out {out}.npz --nfe -1
2 sample {run} --out {out}.npz --labels 3,11
2 sample {run} --out {out}.npz --labels -1
2 sample {run} --out {out}.npz --labels one
2 sample {run} --out {out}.npz --labels ,
2 sample {run} --out {out}.npz --labels 1.5
2 sample {toy} --out {out}.npz --labels 1
2 sample {run} --out {out}.npz --method odes
2 sample {run} --out {out}.npz --method ode,heun,ode
2 sample {run} --out {out}.npz --method ,
2 sample {run} --out {out}.npz --times 0,1
2 sample {run} --out {out}.npz --times 1,half,0
2 sample {run} --out {out}.npz --times 1,0.5
2 sample {run} --out {out}.npz --times 2,0
2 sample {run} --out {out}.npz --times nan,0
2 sample {run} --out {out}.npz --times 1
2 sample {run} --out {out}.npz --times 1,0 --nfe 2
2 sample {run} --out {out}.npz --guidance nan
2 sample {run} --out {out}.npz --guidance -1
2 sample {run} --out {out}.npz --guidance 2
2 sample {run} --out {out}.npz --guide-to 0.9
2 sample {run} --out {out}.npz --guide-from 2
2 sample {run} --out {out}.npz --rate 0
2 sample {run} --out {out}.npz --ema 3
2 sample {run} --out {out}.npz --ema 0
1 sample {run} --out {out}.npz --ema 0.1
2 sample {model} --out {out}.npz --ema 0.1
2 sample {run} --out {out}.npz --vae {none}
2 sample {run} --out {out}.npz --device gpu
2 sample {run} --out {out}.npz --device meta
1 sample {run} --out {out}.npz --device cuda
2 sample {run} {toy} --out {out}.npz
2 evaluate
1 evaluate {none}
1 evaluate {file}
2 evaluate {run} --count 3
2 evaluate {run} --count 0
2 evaluate {run} --nfe 0
2 evaluate {run} --nfe 1 -2
2 evaluate {run} --metrics fid
2 evaluate {toy} --metrics frechet
2 evaluate {run} --method odes
2 evaluate {run} --midpoint 2
2 evaluate {run} --midpoint nan
2 evaluate {run} --times 0,1
2 evaluate {run} --times 1,0 --nfe 1
2 evaluate {run} --guidance -1
2 evaluate {run} --guidance 2 --count 16
2 evaluate {run} --ema half
2 evaluate {run} --ema 3
2 evaluate {run} --detector resnet
2 evaluate {run} --labels cats
2 evaluate {toy} --count 16 --labels balanced
2 evaluate {run} --vae {none}
2 evaluate {run} --device gpu
2 evaluate {run} --from-folder {pictures} --count 4
2 evaluate {run} --from-folder {pictures} --seed 4
1 evaluate {run} --from-folder {none}
1 evaluate {run} --from-folder {empty}
1 evaluate {run} --reference {none}
1 evaluate {run} --reference {file}
1 evaluate {run} --count 16 --json {out}/x.json
1 evaluate {run} --count 16 --json {empty}
1 evaluate {run} --count 16 --csv {out}/x.csv
1 evaluate {run} --count 16 --csv {empty}
2 evaluate {run} --count 16 --csv {empty}/x --json {empty}/./x
1 evaluate {run} --count 16 --json {run}/config.yaml
1 evaluate {run} --count 16 --csv {run}/metrics.jsonl
1 evaluate {run} --count 16 --plot {out}/x.png
2 evaluate {run} --count 16 --json /
2 evaluate {run} --count 16 --json '~/x.json'
2 evaluate {run} --count 16 --plot {out}.xyz
2 compare
2 compare {evaluation}
2 import hf://nosuch {out}
2 import hf://owner/nosuch {out}
1 compare {none} {evaluation}
1 compare {evaluation} {none}
1 compare {file} {evaluation}
1 compare {empty} {evaluation}
1 compare {latents} {evaluation}
2 compare {evaluation} {evaluation} --figures nonsense
2 compare {evaluation} {evaluation} --figures
2 export
2 export {run}
2 export {run} ''
2 export {run} /
2 export {run} '~/model'
1 export {none} {out}
1 export {file} {out}
1 export {empty} {out}
2 export {run} {file}
2 export {run} {run}
2 export {run} {out} --format pickle
2 export {run} {out} --format ONNX
2 export {run} {out}.safetensors
2 export {run} {out} --guidance 2
2 export {run} {out} --format program --guidance 2
2 export {run} {out} --ema 5
1 export {run} {out} --ema 0.1
2 export {run} {out} --vae {none}
2 export {run} {out} --private
2 export {run} {out} --push nowhere
1 export {run} /dev/null/model
2 diagnose
1 diagnose {none}
1 diagnose {file}
1 diagnose {run} --step 999
2 diagnose {run} --step 0
2 diagnose {run} --step -1
2 diagnose {run} --batches 1
2 diagnose {run} --batches 0
2 diagnose {run} --alphas 2
2 diagnose {run} --alphas nan
2 diagnose {run} --device gpu
2 diagnose {run} --out /
2 diagnose {run} --out '~'
1 diagnose {run} --out {file} --batches 2
1 diagnose {run} --out /dev/null/x --batches 2
2 report
1 report {none}
1 report {file}
1 report {empty}
2 report {run} --device gpu
2 report {run} --seed 1.5
2 ema
2 ema {run}
2 ema {run} --std
1 ema {none} --std 0.1
1 ema {run} --std 0.1
2 ema {run} --std 0
2 ema {run} --std 3
2 ema {run} --std nan
2 ema {run} --std 0.1 --step 0
2 ema {run} --std 0.1 --out /
2 bench --model Q/2
2 bench --model S
2 bench --model S/0
2 bench --model S/-1
2 bench --model S/x
2 bench --model S/3 --size 16
2 bench --model ''
2 bench --size 0
2 bench --size -1
2 bench --size 1000000
2 bench --channels 0
2 bench --batch 0
2 bench --batch 1000000000000
2 bench --rounds 0
2 bench --shares 0
2 bench --shares 150
2 bench --shares 25 x
2 bench --ways fusd
2 bench --ways auto
2 bench --precision half
2 bench --device gpu
2 bench --device mps:0
1 bench --device cuda --model S/16 --size 16
1 bench --json {out}/x.json
1 bench --json {empty}
1 bench --json /dev/null/x.json
2 bench --json /
2 bench --json ''
2 encode
2 encode {pictures}
2 encode {pictures} {out}
2 encode {pictures} / --vae {none}
2 encode {pictures} '' --vae {none}
2 encode {pictures} '~/l' --vae {none}
2 encode '' {out} --vae {none}
1 encode {none} {out} --vae {none}
1 encode {pictures} {out} --vae {none}
1 encode {pictures} {out} --vae {file}
2 encode {pictures} {out} --vae {none} --size 0
2 encode {pictures} {out} --vae {none} --size -8
2 encode {pictures} {out} --vae {none} --crop middle
2 encode {pictures} {out} --vae {none} --flips some
2 encode {pictures} {out} --vae {none} --scale big
2 encode {pictures} {out} --vae {none} --precision fp16
2 encode {pictures} {out} --vae {none} --batch-size 0
2 encode {pictures} {out} --vae {none} --tolerance 3
2 encode {pictures} {out} --vae {none} --tolerance -1
2 encode {pictures} {out} --vae {none} --shard-images 0
2 encode {pictures} {out} --vae {none} --frames 0
2 encode {pictures} {out} --vae {none} --frames 4 --flips drawn
2 encode {pictures} {out} --vae {none} --frames 4 --labels x.csv
2 encode {pictures} {out} --vae {none} --rate 0 --frames 4
2 encode {pictures} {out} --vae {none} --rate 8
2 encode {pictures} {out} --vae {none} --second std
2 encode {pictures} {out} --vae {none} --multiplied 2
2 encode {pictures} {out} --vae {none} --device gpu
2 encode {pictures} {out} --from tapes
2 encode {pictures} {out} --from latents --dry-run
2 encode {pictures} {out} --from latents --labels x.csv
2 encode {pictures} {out} --from latents --second half
2 encode {pictures} {out} --from latents --multiplied 0
2 encode {pictures} {out} --from latents --multiplied -1
1 encode {none} {out} --from latents
1 encode {pictures} {out} --from latents
2 inspect
1 inspect {none}
1 inspect {file}
1 inspect {empty}
1 inspect {pictures}
2 inspect {latents} --count 0
2 inspect {latents} --grid ''
2 inspect {latents} --grid /
2 inspect {latents} --grid {out}.jpg
1 inspect {latents} --grid {out}/x.png
1 inspect {latents} --grid {out}.png --vae {none}
2 inspect {latents} --grid {out}.png --device gpu
2 import
2 import {file}
2 import {file} ''
2 import {file} /
2 import {file} '~/m'
1 import {none} {out}
1 import {file} {out}
1 import {empty} {out}
1 import {pictures} {out}
2 import {model}/model.safetensors {out} --layout other
2 import {model}/model.safetensors {out} --weights best
2 import {model}/model.safetensors {out} --heads 0
2 import {model}/model.safetensors {out} --classes -1
2 import {model}/model.safetensors {out} --side 0
2 import {model}/model.safetensors {out} --interval 0
2 import {model}/model.safetensors {out} --interval 1 0
2 import {model}/model.safetensors {out} --guidance -1
2 stats
2 stats {pictures}
2 stats {pictures} {out}.npz
2 stats digits {out}.npz --detector
2 stats digits {out}.npz --detector resnet
2 stats digits {out} --detector digits
2 stats digits {out}.npy --detector digits
2 stats digits / --detector digits
2 stats digits '' --detector digits
2 stats digits '~/x.npz' --detector digits
2 stats '' {out}.npz --detector digits
1 stats {none} {out}.npz --detector digits
1 stats {empty} {out}.npz --detector digits
1 stats digits /dev/null/x.npz --detector digits
1 stats digits {empty}.npz/x.npz --detector digits
2 stats digits {out}.npz --detector digits --size 0
2 stats digits {out}.npz --detector digits --size 16
2 stats digits {out}.npz --detector digits --crop middle
2 stats digits {out}.npz --detector digits --frames 0
2 stats digits {out}.npz --detector digits --frames 4
2 stats digits {out}.npz --detector digits --rate 0
2 stats digits {out}.npz --detector digits --rate nan
2 stats digits {out}.npz --detector digits --device gpu
2 stats digits {out}.npz --detector digits --detector-path {none}
2 demo
1 demo {none} --port 0
1 demo {file} --port 0
1 demo {run} {none} --port 0
2 demo {run} --port -1
2 demo {run} --port 70000
2 demo {run} --port http
2 demo {run} --port 0 --host ''
2 demo {run} --port 0 --host 'no such host'
2 demo {run} --port 0 --device gpu
2 demo {run} --port 0 --vae {none}
2 recipes digits
2 recipes --all
"""


def by_hand() -> list[tuple[int, str]]:
    """The table's lines: status, words."""
    lines = []
    for row in BY_HAND.strip().splitlines():
        status, _, words = row.partition(" ")
        short = words.startswith("TRAIN --")
        words = words.replace("LONG", 300 * "x")
        lines.append((int(status), words.replace("TRAIN ", TRAIN, 1) if short else words))
    return lines
