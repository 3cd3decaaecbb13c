"""Every variant of every config resolves, is possible, and is what it was."""

import importlib
import inspect
import json
import math
import pathlib
import re

import pytest

from experiments import (
    continual,
    control,
    gpicl,
    halfspaces,
    imitation,
    lm_base,
    lm_judges,
    lm_reward,
    lm_search,
    lpn_arc,
    lpn_patterns,
    lr_schedules,
    memory,
    meta_rl,
    ppo,
    self_supervised,
    skills,
    soft_actor_critic,
    tta_clip,
    tta_dense,
    tta_images,
    tta_vision_language,
)
from experiments.data.images import corruptions
from experiments.images import methods, source, stream
from experiments.in_context.settings import LEARNERS
from experiments.lpn import searches
from experiments.lpn.settings import build_model
from jaxrl.envs import FAMILIES
from jaxrl.memory_networks import CELLS as RECURRENT
from jaxrl.meta.evolution import SHAPINGS
from jaxrl.meta.learned_rule import CELLS
from jaxrl.networks import ACTIVATIONS
from jaxtrain.diffusion import SAMPLERS
from jaxtrain.host import cli, experiment, files, workdir
from jaxtrain.host.config import UsageError, flatten, load, plain
from jaxtrain.host.restart import remembered
from jaxtrain.host.settings import check, recorded, rules_of
from jaxtrain.lm.decoder import PUBLISHED
from jaxtrain.parallel import Execution, make_mesh
from jaxtta import images
from jaxtta.images.sda import COMBINATIONS

EXPERIMENTS = {
    "continual": continual,
    "control": control,
    "gpicl": gpicl,
    "halfspaces": halfspaces,
    "imitation": imitation,
    "lm_base": lm_base,
    "lm_judges": lm_judges,
    "lm_reward": lm_reward,
    "lm_search": lm_search,
    "lpn_arc": lpn_arc,
    "lpn_patterns": lpn_patterns,
    "lr_schedules": lr_schedules,
    "memory": memory,
    "meta_rl": meta_rl,
    "ppo": ppo,
    "self_supervised": self_supervised,
    "skills": skills,
    "soft_actor_critic": soft_actor_critic,
    "tta_clip": tta_clip,
    "tta_dense": tta_dense,
    "tta_images": tta_images,
    "tta_vision_language": tta_vision_language,
}
SETUP = cli.Setup(Execution("jit", make_mesh({"data": 1})), None, {"mode": "train", "predict": ""})
GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "configs.json"
ACCEPT = "To accept what the configs are now: python -m tests.experiments.test_configs."
ALL = [
    f"configs/{name}.py:{variant}"
    for name in EXPERIMENTS
    for variant in importlib.import_module(f"configs.{name}").VARIANTS
]
_TRAINED = {"checkpoint.keep_best", "wandb", "optimizer.schedule"}
# Keys whose values are checked where they are used.
FREE = {
    "continual": {"outliers.low", "outliers.high"},
    "control": _TRAINED,
    "gpicl": _TRAINED | {"grid", "evaluation.foreign"},
    "halfspaces": set(),
    "imitation": _TRAINED,
    "lm_base": _TRAINED,
    "lm_judges": _TRAINED | {"base"},
    "lm_reward": _TRAINED,
    "lm_search": set(),
    "lpn_arc": _TRAINED
    | {"data.tasks_dir", "data.tasks", "data.overfit_task", "evaluation.sets", "evaluation.tasks"},
    "lpn_patterns": _TRAINED,
    "lr_schedules": {
        "optimizer.schedule",
        "convex.schedules",
        "language.schedules",
        "search.schedules",
        "search.default",
    },
    "memory": {"checkpoint.keep_best", "wandb"},
    "meta_rl": {"checkpoint.keep_best", "wandb", "ppo.env"},
    "ppo": _TRAINED | {"env", "evaluation.solved_at"},
    "skills": _TRAINED,
    "soft_actor_critic": _TRAINED | {"env"},
    "self_supervised": _TRAINED,
    "tta_clip": set(),
    "tta_dense": {"optimizer.schedule", "data.classes"},
    "tta_images": {"method.vida.modules"},
    "tta_vision_language": set(),
}
# Encoder and decoder parameters of the published configurations, from the authors' code.
PARAMETERS = {
    "lpn_patterns.py:pattern_2d": (126_792, 127_872),
    "lpn_patterns.py:pattern_4": (121_824, 121_536),
    "lpn_patterns.py:pattern_5": (121_824, 121_536),
    "lpn_patterns.py:pattern_ood": (138_560, 15_936),
    "lpn_arc.py:overfit_007bbfb7": (18_912, 188_352),
    "lpn_arc.py:overfit_045e512c": (18_912, 2_157_056),
    "lpn_arc.py:scaling_1": (33_408, 623_872),
    "lpn_arc.py:scaling_5": (65_856, 2_427_392),
    "lpn_arc.py:scaling_25": (230_016, 2_427_392),
    "lpn_arc.py:scaling_100": (426_624, 2_427_392),
    "lpn_arc.py:scaling_400": (3_212_544, 6_359_552),
    "lpn_arc.py:arc_train": (3_245_312, 3_230_208),
    "lpn_arc.py:paper,model.positions=learned": (25_496_064, 19_108_864),
}


def resolved(spec):
    return json.loads(json.dumps(flatten(load(spec)[0])))


def difference(base, variant):
    """What is new or different in `variant`, and under `gone` the keys it lacks."""
    changed = {k: v for k, v in variant.items() if k not in base or base[k] != v}
    gone = sorted(base.keys() - variant.keys())
    return changed | ({"gone": gone} if gone else {})


def applied(base, changed):
    """The variant of which `changed` is the difference to `base`."""
    kept = {k: v for k, v in base.items() if k not in changed.get("gone", ())}
    return kept | {k: v for k, v in changed.items() if k != "gone"}


def default_first(name):
    """All variants of a config, the one that `get_config` gives by itself in front."""
    module = importlib.import_module(f"configs.{name}")
    default = inspect.signature(module.get_config).parameters["arg"].default
    return [default, *sorted(module.VARIANTS.keys() - {default})]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_key_says_what_it_may_be(name):
    """A bool has two values; for every other key some value is refused, or it is free."""
    config, _ = load(f"configs/{name}.py")
    rules, free = rules_of(config), []
    for key, value in flatten(config).items():
        if isinstance(value, bool):
            continue
        assert key in rules, f"configs/{name}.py states no rule for {key}; `free` is one, too"
        free += [key] if not rules[key].says else []
        first = value[0] if isinstance(value, tuple) and value else value
        if isinstance(first, str) or value == ():
            continue
        for wrong in (2**32,) if isinstance(first, int) else (math.nan, math.inf, 1e39):
            with pytest.raises(UsageError, match=f"{key}=.* is impossible"):
                check(config, {key: (wrong,) if isinstance(value, tuple) else wrong})
    assert set(free) == FREE[name]


@pytest.mark.parametrize("spec", ALL)
def test_variant_is_possible(spec):
    config, _ = load(spec)
    EXPERIMENTS[config.experiment].validate(config)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_run_folder_gives_back_every_variant(name, tmp_path):
    for variant in default_first(name):
        given, _ = load(f"configs/{name}.py:{variant}")
        about = workdir.About(name, variant, plain(given), "", {}, f"configs/{name}.py")
        files.write_json(tmp_path / "config.json", about._asdict())
        assert remembered(str(tmp_path))[0].to_dict() == given.to_dict()


def test_variants_are_what_they_were():
    """The golden file holds default variants whole, and how the others differ from them."""
    golden = json.loads(GOLDEN.read_text())
    assert list(golden) == sorted(EXPERIMENTS), ACCEPT
    for name, variants in golden.items():
        assert list(variants) == default_first(name), ACCEPT
        (default, base), *others = variants.items()
        was = {default: base} | {variant: applied(base, changed) for variant, changed in others}
        for variant, before in was.items():
            found = difference(before, resolved(f"configs/{name}.py:{variant}"))
            assert not found, f"configs/{name}.py:{variant} has changed: {found}. {ACCEPT}"


@pytest.mark.parametrize(
    ("base", "variant", "changed"),
    [
        ({"a": 1, "b": [1]}, {"a": 1, "b": [1]}, {}),
        ({"a": 1, "b": [1]}, {"a": 2, "b": [1]}, {"a": 2}),
        ({"a": 1, "b": [1]}, {"a": 1, "b": [1], "c": None}, {"c": None}),
        ({"a": 1, "b": [1]}, {"b": [1]}, {"gone": ["a"]}),
        ({"a": 1, "b.c": {}}, {"a": 1, "b.c.d": 3}, {"b.c.d": 3, "gone": ["b.c"]}),
    ],
)
def test_a_difference_holds_everything(base, variant, changed):
    assert difference(base, variant) == changed
    assert applied(base, changed) == variant


def test_corruptions_of_the_config_are_the_standard_ones():
    """Configs import no experiment, so the list stands in both places."""
    assert tuple(load("configs/tta_images.py")[0].data.corruptions) == corruptions.STANDARD


@pytest.mark.parametrize("spec", PARAMETERS)
def test_published_parameter_counts(spec):
    counts = build_model(load(f"configs/{spec}")[0]).num_parameters()
    assert (counts["encoder"], counts["decoder"]) == PARAMETERS[spec]


@pytest.mark.parametrize(
    "spec, sentence",
    [
        ("configs/lpn_patterns.py:debug,data.pattern_size=4", "smaller than the grid"),
        ("configs/lpn_patterns.py:debug,data.num_pairs=1", "from 2 to 65536"),
        ("configs/lpn_patterns.py:debug,data.density=0.0", "above 0"),
        ("configs/lpn_patterns.py:debug,model.max_rows=5", "make them equal"),
        ("configs/lpn_patterns.py:debug,micro_batch=3", "micro_batch=3"),
        ("configs/lpn_patterns.py:debug,train.mode=median", "choose mean, all"),
        ("configs/lpn_patterns.py:debug,model.positions=sinus", "choose learned, rope"),
        ("configs/lpn_patterns.py:debug,optimizer.schedule=wds", "the schedules are constant"),
        ("configs/lpn_patterns.py:debug,optimizer.schedule=cosine", "longer than the run of 3"),
        (
            "configs/lpn_patterns.py:debug,optimizer.learning_rate=-1",
            "learning_rate=-1.0 is impossible",
        ),
        ("configs/lpn_patterns.py:debug,optimizer.schedule=refined(norms='no.npy')", "not exist"),
        ("configs/lpn_patterns.py:debug,optimizer.schedule=autolrs", "needs min_lr and max_lr"),
        (
            "configs/lpn_patterns.py:debug,optimizer.schedule=autolrs(min_lr=1e-4, max=1)",
            "no argument 'max'",
        ),
        ("configs/lpn_patterns.py:debug,optimizer.record_grad_norms=l3", "choose '', l1, l2"),
        ("configs/lpn_arc.py:debug,optimizer.schedule=linear(warmup=9)", "longer than the run"),
        ("configs/lpn_arc.py:debug,data.lengths=(900,)", "none above"),
        (
            "configs/lpn_arc.py:debug,evaluation.methods=('luck',)",
            "choose among mean, first, gradient_ascent",
        ),
        ("configs/lpn_arc.py:debug,evaluation.attempts=best", "choose distinct_output"),
        (
            "configs/lpn_arc.py:debug,evaluation.augmentations=5,evaluation.augment_by=('rotate',)",
            "5 views are asked for; without permuted colours there are 1 to 4",
        ),
        (
            "configs/lpn_arc.py:debug,evaluation.augmentations=2,model.max_rows=5",
            "exchanges rows and columns, but the model reads grids of at most 5 x 6; use ",
        ),
        ("configs/lpn_arc.py:debug,data.overfit_task=25ff71a9", "at most one of"),
        ("configs/lpn_arc.py:debug,evaluation.methods=()", "give at least one value"),
        (
            "configs/lpn_arc.py:debug,evaluation.group_size=0",
            "evaluation.group_size=0 is impossible",
        ),
        ("configs/lpn_arc.py:debug,evaluation.score=best", "choose mean_cells"),
        (
            "configs/lpn_arc.py:debug,evaluation.search.num_steps=-1,evaluation.curve_steps=()",
            "num_steps=-1 is impossible",
        ),
        (
            "configs/lpn_arc.py:debug,train.mode=in_context,in_context.max_demonstrations=3",
            "no room for 4 demonstrations",
        ),
        (
            "configs/lpn_arc.py:debug,evaluation.methods=('evolution_strategy',),evaluation.search.evolution_strategy.population=3",
            "mirrored sampling",
        ),
        (
            "configs/lpn_arc.py:debug,evaluation.methods=('encoder_sampling',),evaluation.search.encoder_sampling.num_samples=-1",
            "num_samples=-1 is impossible",
        ),
        (
            "configs/lpn_patterns.py:debug,model.encoder.num_heads=0",
            "num_heads=0 is impossible",
        ),
        ("configs/lpn_patterns.py:debug,model.latent_dim=0", "latent_dim=0 is impossible"),
        ("configs/lpn_patterns.py:debug,model.dtype=float99", "choose float32, bfloat16"),
        ("configs/lpn_patterns.py:debug,model.dropout=1.0", "dropout is 1.0"),
        ("configs/lpn_patterns.py:ga_1,train.search.include_mean_latent=no", "no start point"),
        ("configs/lpn_arc.py:debug,data.workers=-1", "data.workers=-1 is impossible"),
        (
            "configs/lpn_patterns.py:debug,evaluation.num_tasks=0",
            "evaluation.num_tasks=0 is impossible",
        ),
        (
            "configs/lpn_patterns.py:debug,evaluation.densities=(2.0,)",
            "must be above 0 and at most 1",
        ),
        (
            "configs/lpn_patterns.py:ga_1,train.search.num_steps=-1",
            "train.search.num_steps=-1 is impossible",
        ),
        (
            "configs/lpn_patterns.py:ga_1,train.search.gradient_ascent.optimizer=lion",
            "optimizer='lion' is impossible; choose adam, sgd",
        ),
        (
            "configs/lpn_patterns.py:ga_1,train.search.gradient_ascent.clip_scope=all",
            "clip_scope='all' is impossible; choose latent, batch",
        ),
        (
            "configs/lpn_arc.py:debug,evaluation.attempts=third",
            "attempts='third' is impossible; choose distinct_output",
        ),
        (
            "configs/lpn_arc.py:debug,evaluation.latent_source=mode",
            "latent_source='mode' is impossible",
        ),
        (
            "configs/lpn_arc.py:debug,evaluation.aggregate=median",
            "aggregate='median' is impossible",
        ),
        ("configs/lpn_arc.py:debug,evaluation.score=median", "score='median' is impossible"),
        (
            "configs/lpn_patterns.py:rs_5,train.search.random_search.num_samples=-1",
            "num_samples=-1 is impossible",
        ),
        (
            "configs/lpn_arc.py:small,evaluation.search.gradient_ascent.lr_schedule=true",
            "shorter search is another one",
        ),
        (
            "configs/lpn_patterns.py:small,evaluation.search.gradient_ascent.lr_schedule=true",
            "shorter search is another one",
        ),
        ("configs/gpicl.py:debug,optimizer.schedule=autolrs(max_lr=1)", "needs min_lr"),
        (
            "configs/gpicl.py:debug,num_steps=6,optimizer.accumulate=4",
            "so the last 2 batches would change nothing",
        ),
        ("configs/gpicl.py:debug,optimizer.schedule=linear(warmup=9)", "optimizer.schedule"),
        ("configs/lr_schedules.py:debug,study=cubic", "choose convex, language"),
        ("configs/lr_schedules.py:debug,num_seeds=0", "from 1 to 65536"),
        ("configs/lr_schedules.py:debug,convex.optimizers=('lion',)", "choose among sgd"),
        ("configs/lr_schedules.py:debug,convex.schedules=('cosine',)", "must hold 'linear'"),
        ("configs/lr_schedules.py:debug,convex.schedules=('linear','wsd(x=1)')", "no argument 'x'"),
        (
            "configs/lm_reward.py:sharpening,sharpening.num_samples=60",
            "more than the sharpening.pool=50",
        ),
        ("configs/lm_reward.py:sharpening_exact_pairs,sharpening.pool=3", "are no pairs"),
        (
            "configs/lm_reward.py:verifier,experts.length=10,experts.horizons=(8,)",
            "do not fit into",
        ),
        ("configs/lm_reward.py:debug,model.head_dim=3", "rotary pairs need an even number"),
        (
            "configs/lm_reward.py:debug,optimizer.schedule=autolrs(min_lr=1e-4, max_lr=1e-2)",
            "what learns here makes its own",
        ),
        ("configs/lr_schedules.py:language_debug,language.text=nowhere", "does not exist"),
        ("configs/lr_schedules.py:language_debug,language.heads=3", "multiple of"),
        ("configs/lr_schedules.py:continual_debug,continual.num_tasks=9", "2 to 5"),
        ("configs/lr_schedules.py:continual_debug,continual.cooldown=0.9", "longer than a task"),
        ("configs/lr_schedules.py:continual_debug,continual.anneal=0.0", "multiples of log_every"),
        ("configs/lr_schedules.py:search_debug,optimizer.schedule=linear", "needs"),
        (
            "configs/lr_schedules.py:search_debug,optimizer.schedule=autolrs(min_lr=2, max_lr=1)",
            "min_lr < max_lr",
        ),
        ("configs/tta_images.py:debug,model.num_classes=-1", "num_classes=-1 is impossible"),
        ("configs/tta_images.py:debug,data.num_images=-1", "num_images=-1 is impossible"),
        ("configs/gpicl.py:debug,data.size=0", "data.size=0 is impossible"),
        ("configs/gpicl.py:debug,data.size=1000000", "data.size=1000000 is impossible; it must"),
        ("configs/ppo.py:debug,network.widths=(-1,)", "network.widths=.-1,. is impossible"),
        ("configs/control.py:debug,flips=0.6", "it must be from 0 to 0.5"),
        ("configs/control.py:debug,batch_size=1", "two or more trajectories"),
        ("configs/control.py:debug_slim,rollout.num_minibatches=3", "the 32 samples of an update"),
        ("configs/control.py:debug_slim,skills.size=1", "skills.size=1 is impossible"),
        ("configs/imitation.py:debug,network.num_heads=3", "does not divide network.width=8"),
        ("configs/imitation.py:debug,sigma.least=1.0", "must be below sigma.most=1.0"),
        ("configs/imitation.py:debug,window=13", "has 14 rows; the longest has 12"),
        ("configs/skills.py:debug,data.path=nowhere.npz", "nowhere.npz does not exist"),
        ("configs/skills.py:debug,evaluation.min_distance=17", "more than 16 apart"),
        ("configs/skills.py:debug,evaluation.plan.nearest=21", "evaluation.num_known=20"),
        ("configs/meta_rl.py:debug,rule.width=0", "rule.width=0 is impossible"),
        ("configs/ppo.py:debug,rollout.num_minibatches=0", "num_minibatches=0 is impossible"),
        ("configs/ppo.py:debug,method=sarsa", "choose ppo, dpo, a2c"),
        ("configs/soft_actor_critic.py:debug,env=cart_pole", "needs continuous actions, a Box"),
        ("configs/soft_actor_critic.py:debug,replay.batch_size=6", "must be a multiple of num_w"),
        ("configs/ppo.py:debug_memory,method=a2c", "network.memory=gru goes with method=ppo"),
        ("configs/ppo.py:debug_memory,rollout.segment=3", "segment is 3; it must divide"),
        ("configs/ppo.py:debug,env=chess", "ours are cart_pole"),
        ("configs/ppo.py:debug,rollout.num_minibatches=5", "does not divide the 64 samples"),
        ("configs/ppo.py:debug,network.activation=swish", "choose tanh, relu"),
        (
            "configs/meta_rl.py:debug,levels.family=huge",
            "levels.family='huge' is impossible; choose",
        ),
        ("configs/meta_rl.py:debug,evolution.num_buckets=3", "does not divide batch_size=4"),
        ("configs/meta_rl.py:debug,levels.lifetime=(3,2)", "the least lifetime first"),
        ("configs/meta_rl.py:debug_lpo,trainer=meta_gradient", "lpo is trained by evolution"),
        ("configs/meta_rl.py:debug_meta_gradient,meta_gradient.num_chunks=3", "does not divide"),
        ("configs/tta_images.py:debug,methods=('luck',)", "choose among source, reset"),
        ("configs/tta_images.py:debug,model.name=vgg", "choose wide_resnet, cifar_resnet"),
        ("configs/tta_images.py:debug,data.name=svhn", "data.name='svhn'"),
        (
            "configs/tta_images.py:debug,stream.setting=odd",
            "choose reset_each_shift",
        ),
        (
            "configs/tta_images.py:debug,data.corruptions=('rain',)",
            "choose among gaussian_noise",
        ),
        (
            "configs/tta_images.py:debug,data.severity=6",
            "severity=6 is impossible; it must be from 0 to 5",
        ),
        ("configs/tta_images.py:debug,stream.order=1", "needs the 15 standard"),
        ("configs/tta_images.py:full,stream.order=10", "it must be from -1 to 9"),
        ("configs/tta_images.py:debug,num_seeds=0", "from 1 to 65536"),
        ("configs/tta_images.py:debug,rescored=('lame',)", "choose among core, tent"),
        ("configs/tta_images.py:debug,method.tent.optimizer=lamb", "choose adam, sgd, descent"),
        ("configs/tta_images.py:debug,stream.window=4", "with batch_size=1"),
        ("configs/tta_images.py:debug,stream.unknown=svhn", "stream.unknown='svhn'"),
        ("configs/tta_images.py:debug,stream.setting=open_set,batch_size=7", "7 is odd"),
        (
            "configs/tta_images.py:debug,stream.imbalance=0",
            "it must be above 0",
        ),
        ("configs/tta_images.py:debug,methods=('label_shift_adapter',)", "with source.imbalance"),
        (
            "configs/tta_images.py:debug,methods=('adanpc',),method.adanpc.growth=3",
            "0 or at least batch_size",
        ),
        (
            "configs/tta_images.py:debug,rescored=('label_shift_adapter',)",
            "choose among core, tent",
        ),
        ("configs/tta_images.py:debug,methods=('dda',),projection.start=6", "start=6 must be 1"),
        (
            "configs/tta_images.py:debug,methods=('dda',),diffusion.network.patch=3",
            "divisible by 3",
        ),
        (
            "configs/tta_images.py:debug,methods=('sda',),method.sda.sampling_steps=1",
            "num_steps=1 must be 2",
        ),
        ("configs/tta_images.py:debug,methods=('sda',),method.sda.num_images=3", "fill a batch"),
        (
            "configs/tta_images.py:debug,methods=('sda',),method.sda.combination=mean",
            "choose sum, entropy_sum",
        ),
        ("configs/tta_images.py:debug,model.cifar_resnet.groups=4", "holds batch_norm, which"),
        ("configs/tta_images.py:debug,model.name=vit", "this vit has none"),
        ("configs/tta_images.py:debug,model.cifar_resnet.groups=3", "groups=3 must divide"),
        ("configs/tta_images.py:imagenet_c,model.resnet50.groups=3", "divide the 64 channels"),
        ("configs/tta_images.py:imagenet_c,data.corrupted_dir=", "constants of 32 x 32 images"),
        ("configs/tta_images.py:imagenet_c_vit,data.size=225", "patches of model.vit_base.patch"),
        ("configs/tta_images.py:imagenet_c,model.name=vit_base", "this vit_base has none"),
        (
            "configs/tta_images.py:imagenet_c,stream.setting=open_set",
            "corrupted_dir holds no images of unknown classes",
        ),
    ],
)
def test_impossible_settings_are_named(spec, sentence):
    with pytest.raises(ValueError, match=sentence):
        config, _ = load(spec)
        module = EXPERIMENTS[config.experiment]
        module.validate(config)
        if hasattr(module, "build"):
            work = module.build(config, SETUP)
            assert isinstance(work, experiment.Training)
            experiment.prepared(work, config, SETUP)


@pytest.mark.parametrize(
    "spec, without_effect, with_effect",
    [
        ("lpn_patterns.py:debug", "train.search.num_steps", "evaluation.search.gradient_ascent.b1"),
        ("lpn_patterns.py:ga_1", "train.search.cem", "train.search.num_steps"),
        ("lpn_patterns.py:rs_5", "train.search.num_steps", "train.search.random_search"),
        ("lpn_patterns.py:pattern_2d", "evaluation.search.gradient_ascent.b2", "train.beta"),
        ("lpn_patterns.py:in_context", "train.beta", "evaluation.ttt_steps"),
        ("lpn_patterns.py:pattern_4", "evaluation.ttt_steps", "train.gamma"),
        ("lpn_arc.py:debug", "evaluation.search.hybrid", "evaluation.search.gradient_ascent.b1"),
        (
            "lpn_arc.py:evaluation.methods=('hybrid',),evaluation.early_exit=false",
            "evaluation.patience",
            "evaluation.search.cem",
        ),
        (
            "lpn_arc.py:evaluation.methods=('mean',),evaluation.curve_steps=()",
            "evaluation.search.num_steps",
            "evaluation.score",
        ),
        ("lpn_arc.py:paper", "model.separate_input_positions", "model.rope_max_frequency"),
        ("lpn_arc.py:small_plain", "data.flip", "data.cache_samples"),
        ("lpn_arc.py:debug", "evaluation.augment_by", "evaluation.augmentations"),
        ("lm_reward.py:verifier_debug,base.num_steps=0", "base.batch_size", "experts.spread"),
        ("lm_judges.py:critique_debug", "hints", "kept"),
        ("control.py:debug_protected", "optimizer", "defence.period"),
    ],
)
def test_what_a_run_reads_is_known_before_it_starts(spec, without_effect, with_effect):
    config, _ = load(f"configs/{spec}")
    watched, reads = recorded(config)
    training = EXPERIMENTS[config.experiment].build(watched, SETUP)
    experiment.prepared(training, watched, SETUP)
    read = lambda name: any(key == name or key.startswith(f"{name}.") for key in reads.keys)
    assert read(with_effect) and not read(without_effect)
    known = set(flatten(config))
    assert reads.keys <= known
    assert any(key == without_effect or key.startswith(f"{without_effect}.") for key in known)


@pytest.mark.parametrize(
    "name, key, table",
    [
        ("lpn_arc", "evaluation.latent_source", searches.LATENTS),
        ("lpn_arc", "evaluation.aggregate", searches.AGGREGATES),
        ("lpn_arc", "evaluation.score", searches.CELLS),
        ("lpn_arc", "evaluation.attempts", searches.ATTEMPTS),
        ("lpn_arc", "evaluation.methods", ("mean", "first", *searches.SEARCHES)),
        ("lpn_arc", "train.search.gradient_ascent.optimizer", searches.ASCENT_OPTIMIZERS),
        ("lpn_arc", "train.search.gradient_ascent.clip_scope", searches.CLIP_SCOPES),
        ("gpicl", "model.name", LEARNERS),
        ("lm_reward", "model.published", {"", *PUBLISHED}),
        ("lm_reward", "system", lm_reward.SYSTEMS),
        ("lr_schedules", "study", lr_schedules.STUDIES),
        ("meta_rl", "levels.family", FAMILIES),
        ("meta_rl", "rule.cell", CELLS),
        ("meta_rl", "evolution.shaping", SHAPINGS),
        ("control", "method", control.METHODS),
        ("imitation", "sampler.method", SAMPLERS),
        ("ppo", "network.activation", ACTIVATIONS),
        ("ppo", "network.memory", {"none", "transformer", *RECURRENT}),
        ("tta_images", "rescored", methods.RESCORED),
        ("tta_images", "model.name", source.NETWORKS),
        ("tta_images", "stream.setting", stream.SETTINGS),
        ("tta_images", "data.corruptions", corruptions.CORRUPTIONS),
        ("tta_images", "method.dda.combination", COMBINATIONS),
    ],
)
def test_choices_of_a_config_are_those_of_the_table(name, key, table):
    config, _ = load(f"configs/{name}.py")
    assert set(rules_of(config)[key].known) == set(table)


def test_every_method_of_the_config_can_be_made():
    """Methods with lines of their own, and those that `usual` makes from `jaxtta.images`."""
    config, _ = load("configs/tta_images.py")
    names = rules_of(config)["methods"].known
    assert set(methods.METHODS) < set(names)
    for name in names:
        takes = inspect.signature(methods.method(name)).parameters
        assert "source" in takes or name in methods.METHODS
    usual = [name for name in names if name not in methods.METHODS]
    for name in usual:
        takes = inspect.signature(getattr(images, name)).parameters
        own = set(config.method.get(name, {})) - {"optimizer", "learning_rate", "nesterov"}
        assert own <= set(takes), name


if __name__ == "__main__":
    golden = {}
    for name in sorted(EXPERIMENTS):
        variants = {v: resolved(f"configs/{name}.py:{v}") for v in default_first(name)}
        (default, base), *others = variants.items()
        golden[name] = {default: base} | {v: difference(base, whole) for v, whole in others}
    text = json.dumps(golden, indent=1) + "\n"
    text = re.sub(r"\[[^][]*\]", lambda values: " ".join(values[0].split()), text)
    assert json.loads(text) == golden
    GOLDEN.write_text(text)
