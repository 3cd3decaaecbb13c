"""Faults that the default tests must see, each one edit of one line.

A row of `planted` is what is wrong, the text that is there (once in the file) and what replaces it.
The tests of a file are those that mirror it, `tests/<folder>/test_<name>.py`, unless others are
named. `test_table.py` keeps the table true; `python -m tests.faults` plants the faults.
"""

from pathlib import Path
from typing import NamedTuple


class Fault(NamedTuple):
    """One edit.

    Attributes:
      file: path below the root.
      what: what is wrong with it.
      old: text that occurs once in the file.
      new: what replaces it.
      tests: paths of the tests that must fail.
    """

    file: str
    what: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.file}: {self.what}"


def planted(file: str, *rows: tuple[str, str, str], tests: tuple[str, ...] = ()) -> list[Fault]:
    path = Path(file)
    mirror = str("tests" / path.with_name(f"test_{path.name}"))
    return [Fault(file, *row, tests or (mirror,)) for row in rows]


IMAGES, LPN, IN_CONTEXT = "tests/jaxtta/images", "tests/jaxtta/lpn", "tests/jaxtta/in_context"
TASKS = "tests/jaxrl/lm/tasks"
HOST, NETS = "tests/jaxtrain/host", "tests/jaxtrain/nets"
CONTROL, GRID = "tests/jaxrl/envs/test_control.py", "tests/jaxrl/envs/test_grid_world.py"
EIGHT = ("tests/jaxtrain/test_parallel.py", "tests/multidevice/cases_parallel.py")

JAXRL = [
    *planted(
        "jaxrl/actor_critic.py",
        ("relabelled rewards are not learned from", "steps._replace(reward=reward)", "steps"),
        ("updates are not counted", "state.num_updates + 1,", "state.num_updates,"),
        ("all workers share a key", "(None, 0))(key, places)", "(None, 0))(key, 0 * places)"),
        (
            "the policy acts on raw observations",
            "state.params, state.observation_moments),",
            "state.params),",
        ),
        ("no episode, no memory of the last mean", "jnp.where(number > 0, mean, before)", "mean"),
        (
            "greedy is random",
            "policy.mode() if greedy else policy.sample(key)",
            "policy.sample(key)",
        ),
        (
            "progress is one update ahead",
            "state.num_updates / horizon",
            "(state.num_updates + 1) / horizon",
        ),
    ),
    *planted(
        "jaxrl/minibatches.py",
        ("sign of the entropy", "- entropy_coef * parts", "+ entropy_coef * parts"),
        ("the target is the advantage", "target=advantage + value,", "target=advantage,"),
        (
            "time limits taken the wrong way",
            "steps.terminated if bootstrap_on_truncation else steps.done",
            "steps.done if bootstrap_on_truncation else steps.terminated",
        ),
        (
            "advantages are not centred",
            "advantage - pmean(advantage.mean(), axis_name)",
            "advantage",
        ),
        (
            "samples are not shuffled",
            "jax.random.permutation(fold_in_axis(key, axis_name), size)",
            "jnp.arange(size)",
        ),
        (
            "ratio upside down",
            "policy.log_prob(sample.action) - sample.log_prob",
            "sample.log_prob - policy.log_prob(sample.action)",
        ),
    ),
    *planted(
        "jaxrl/minibatches.py",
        (
            "advantages stay as they are",
            "normalise(advantage) if normalise_advantages else advantage",
            "advantage",
        ),
        (
            "rewards are normalised together",
            "normalise = jax.vmap(normalise, -1, -1)",
            "pass",
        ),
        tests=("tests/jaxrl/test_actor_critic.py",),
    ),
    *planted(
        "jaxrl/actor_critic_state.py",
        ("returns begin anew", "state._replace(discounted=discounted, ", "state._replace("),
        ("rewards of the first worker", "state.discounted[places]", "state.discounted[0 * places]"),
        tests=("tests/jaxrl/test_actor_critic.py",),
    ),
    *planted(
        "jaxrl/memory.py",
        (
            "the memory before the step is left",
            "return Decided(action, memory), Said",
            "return Decided(action, seen.memory), Said",
        ),
        ("actions are not clipped", "bounded(env, decided.action)", "decided.action"),
        (
            "an episode begins inside the step",
            "jnp.zeros(1, bool))",
            "jnp.ones(1, bool))",
        ),
    ),
    *planted(
        "jaxrl/memory_networks.py",
        ("cells remember other episodes", "jnp.where(first, new, old), start", "old, start"),
        ("a step too many is read", "since < length)", "since <= length)"),
        (
            "tokens read other episodes",
            "(begin[:, None] == begin[None]) & (apart >= 0)",
            "(apart >= 0)",
        ),
        (
            "kept steps of an episode that is over",
            "jnp.where(begin[-1] < 0, memory.place, -1)",
            "memory.place",
        ),
        ("places begin at the window", "memory.time, -begin) + index", "0, -begin) + index"),
    ),
    *planted(
        "jaxrl/memory_ppo.py",
        ("episodes begin a step early", "((0, 0), (1, 0)))", "((0, 0), (0, 1)))"),
        (
            "V(s') of the next episode",
            "think(network, params, step.next_observation)[2]",
            "step.extras.value",
        ),
        (
            "memory of the segment after",
            "return after, (workers.observation.memory, steps)",
            "return after, (after.observation.memory, steps)",
        ),
    ),
    *planted(
        "jaxrl/buffers.py",
        ("rows stay where they are", "(ring.next + jnp.arange(number))", "(jnp.arange(number))"),
        ("rows never written", "jnp.maximum(ring.size, 1))", "len(ring.rows) + 0 * ring.size)"),
        ("more rows than fit", "jnp.minimum(ring.size + number, capacity)", "ring.size + number"),
    ),
    *planted(
        "jaxrl/soft_actor_critic.py",
        (
            "ends are bootstrapped",
            "jnp.where(row.terminated, 0.0, value)",
            "value",
        ),
        ("the better critic", "following).min()", "following).max()"),
        ("entropy is punished", "alpha * log_prob - score", "-alpha * log_prob - score"),
    ),
    *planted(
        "jaxrl/off_policy.py",
        ("targets are left behind", "x + tau * (y - x)", "x + 0 * (y - x)"),
        (
            "learning begins at once",
            "ready = state.num_updates + 1 >= num_random",
            "ready = state.num_updates >= 0",
        ),
        tests=("tests/jaxrl/test_soft_actor_critic.py",),
    ),
    *planted(
        "jaxrl/control/srl.py",
        (
            "gradients flow through the model",
            "foreseen = jax.lax.stop_gradient(network.model(targets.model, observation, action))",
            "foreseen = network.model(targets.model, observation, action)",
        ),
        (
            "the world stands still",
            "return (hidden, action, foreseen), ",
            "return (hidden, action, observation), ",
        ),
        (
            "the actor forgets its last action",
            "return (hidden, action, foreseen), ",
            "return (hidden, before, foreseen), ",
        ),
        (
            "the actor never looks again",
            "jnp.where(begun.place == 0, looked",
            "jnp.where(begun.place < 0, looked",
        ),
        (
            "the model is not followed",
            "Targets(params.critics, params.model)),",
            "targets._replace(critics=params.critics)),",
        ),
        (
            "random actions are forgotten",
            "decided.memory._replace(action=action)",
            "decided.memory",
        ),
    ),
    *planted(
        "jaxrl/control/held_actions.py",
        (
            "a decision in every step",
            "jnp.where(held.place == 0, new",
            "jnp.where(held.place >= 0, new",
        ),
        (
            "the score is divided by 29",
            "(lengths[-1] * max_return)",
            "((lengths[-1] - 1) * max_return)",
        ),
    ),
    *planted(
        "jaxrl/distributions.py",
        ("no change of variables", "jnp.sum(normal - stretch)", "jnp.sum(normal)"),
        ("a box from 0", "self.low + half * (1 + jnp.tanh(u))", "half * (1 + jnp.tanh(u))"),
    ),
    *planted(
        "experiments/soft_actor_critic.py",
        (
            "agents are judged as they explore",
            "acting(network, params, greedy=True)",
            "acting(network, params)",
        ),
        (
            "a schedule counts gradient steps",
            "steps_per_update=config.replay.num_updates",
            "steps_per_update=1",
        ),
        ("the control learns its model", 'parts.model == "learned"', "parts.model"),
        ("agents decide in every step", "holding(act, length)", "holding(act, 1)"),
    ),
    *planted(
        "experiments/rl/held.py",
        ("all lengths are the first", "curves[..., i]", "curves[..., 0]"),
        ("the offset is forgotten", "offset=offset, max", "offset=0.0, max"),
        tests=("tests/experiments/rl/test_held.py",),
    ),
    *planted(
        "jaxrl/envs/recall.py",
        ("the cue stays", "* (state.time == 0)", "* (state.time >= 0)"),
        ("any choice is right", "(asked & (action == state.cue))", "asked"),
    ),
    *planted(
        "jaxrl/envs/trials.py",
        ("a task per episode", "TrialState(before.task, one", "TrialState(sample(key), one"),
        ("a trial too long", "after.episode >= num_episodes", "after.episode > num_episodes"),
        ("the goal is where one begins", "(1,), 1, cells)", "(1,), 0, 1)"),
    ),
    *planted(
        "experiments/rl/in_trials.py",
        ("last is first", "curves[..., -few:]", "curves[..., :few]"),
        ("none of few", "max(1, curves.shape[-1] // SHARE)", "curves.shape[-1]"),
        tests=("tests/experiments/rl/test_in_trials.py",),
    ),
    *planted(
        "jaxrl/returns.py",
        (
            "termination bootstraps",
            "gamma * jnp.where(terminated_t, 0.0, next_value_t)",
            "gamma * next_value_t",
        ),
        (
            "a NaN crosses the end of an episode",
            "jnp.where(cut, 0.0, advantage)",
            "advantage",
        ),
        (
            "weights of lambda swapped",
            "(1 - lambda_) * value + lambda_ * target",
            "lambda_ * value + (1 - lambda_) * target",
        ),
        (
            "a value from behind a termination",
            "value_t = jnp.where(terminated_t, 0.0, next_value_t)",
            "value_t = next_value_t",
        ),
    ),
    *planted(
        "jaxrl/losses.py",
        ("sign of the objective", "return drift - ratio_of", "return drift + ratio_of"),
        ("the better value loss", "jnp.maximum(error, (", "jnp.minimum(error, ("),
        ("KL the other way round", "jnp.sum(p * (jnp.log(p", "jnp.sum(q * (jnp.log(p"),
        tests=("tests/jaxrl/test_returns.py",),
    ),
    *planted(
        "jaxrl/drift.py",
        (
            "branches of DPO swapped",
            "advantage >= 0, above, below + plain",
            "advantage >= 0, below + plain, above",
        ),
        (
            "margin with the wrong sign",
            "jax.nn.relu(base.distance(*at) + network(*at) - xi)",
            "jax.nn.relu(base.distance(*at) + network(*at) + xi)",
        ),
        (
            "margin of the loss with the wrong sign",
            "base.loss(*at) + f - xi",
            "base.loss(*at) + f + xi",
        ),
        (
            "the ratio where PPO clips",
            "jnp.where(beyond > 0, near, ratio)",
            "jnp.where(beyond > 0, ratio, near)",
        ),
        ("no progress in the inputs", "[x, progress * x]", "[x, x]"),
        ("clipped below only", "jnp.clip(x, -clip, clip)", "jnp.maximum(x, -clip)"),
    ),
    *planted(
        "jaxrl/normalise.py",
        ("variance of two means", "seen * (1 - seen) * gap**2", "seen * gap**2"),
        ("returns cross episodes", "jnp.where(done, 0.0, total), total", "total, total"),
        (
            "rewards lose their mean",
            "return reward / deviation",
            "return (reward - moments.mean) / deviation",
        ),
        (
            "no clip",
            "jnp.clip((x - mean) / jnp.sqrt(variance + 1e-8), -clip, clip)",
            "(x - mean) / jnp.sqrt(variance + 1e-8)",
        ),
    ),
    *planted(
        "jaxrl/rollout.py",
        ("returns cross episodes", "jnp.where(done, 0.0, total),", "total,"),
        (
            "next observation after the reset",
            'step.info["final_observation"],',
            "step.observation,",
        ),
        ("one step too many", "(carry[-2] < max_steps)", "(carry[-2] <= max_steps)"),
    ),
    *planted(
        "jaxrl/distributions.py",
        (
            "sign of the entropy",
            "return -jnp.sum(jnp.exp(log_p) * log_p)",
            "return jnp.sum(jnp.exp(log_p) * log_p)",
        ),
        ("deviation upside down", "* jnp.exp(-self.log_std)", "* jnp.exp(self.log_std)"),
        ("the least likely action", "jnp.argmax(self.logits", "jnp.argmin(self.logits"),
    ),
    *planted(
        "jaxrl/meta/evolution.py",
        ("goes downhill", "jax.tree.map(jnp.negative, gradient)", "gradient"),
        (
            "a tie is a defeat",
            "0.5 * (fitness > other) + 0.5 * (fitness >= other)",
            "1.0 * (fitness > other)",
        ),
        ("pairs without their mirror image", "mean - state.sigma * eps", "mean"),
        (
            "limit from above",
            "jnp.maximum(state.sigma * sigma_decay",
            "jnp.minimum(state.sigma * sigma_decay",
        ),
        (
            "failure wins",
            "jnp.isfinite(fitness), fitness, -jnp.inf)",
            "jnp.isfinite(fitness), fitness, jnp.inf)",
        ),
        ("half the population", "(2 * num_pairs * state.sigma)", "(num_pairs * state.sigma)"),
    ),
    *planted(
        "jaxrl/meta/learned_drift.py",
        ("fitness at the beginning", "curve[-window:]", "curve[:window]"),
        ("one key for all updates", "jax.random.fold_in(key_run, i)", "key_run"),
    ),
    *planted(
        "jaxrl/meta/learned_objective.py",
        (
            "fitness in the order of lifetimes",
            "jnp.zeros_like(fitness).at[order].set(fitness)",
            "fitness",
        ),
        ("sign of the policy's entropy", "- policy_entropy_coef *", "+ policy_entropy_coef *"),
        (
            "the critic learns when it should not",
            "        if train_critic:",
            "        if not train_critic:",
        ),
        (
            "lives end one update late",
            "lives.agent.num_updates >= lives.lifetime",
            "lives.agent.num_updates > lives.lifetime",
        ),
        ("chunks are not averaged", "lambda x: x / num_lifetimes", "lambda x: x"),
        tests=("tests/jaxrl/meta/test_learned_objective_loss.py",),
    ),
    *planted(
        "jaxrl/meta/learned_rule.py",
        ("memory crosses episodes", "jnp.where(ended, 0.0, c)", "c"),
        (
            "prediction beyond the end",
            "jnp.where(inputs.done, 0.0, phi(inputs.next_prediction))",
            "phi(inputs.next_prediction)",
        ),
        ("reads forwards", "(x, inputs.done), reverse=True)", "(x, inputs.done))"),
        ("gradient through the inputs", "jax.lax.stop_gradient(inputs)", "inputs"),
    ),
    *planted(
        "jaxrl/meta/lifetime.py",
        (
            "sign of the actor's loss",
            "return jnp.mean(jnp.log(_chosen(p",
            "return -jnp.mean(jnp.log(_chosen(p",
        ),
        (
            "KL the other way round",
            "categorical_kl(y, said.y_hat, FLOOR)",
            "categorical_kl(said.y_hat, y, FLOOR)",
        ),
        (
            "one update too many",
            "lambda a: a.num_updates < lifetime",
            "lambda a: a.num_updates <= lifetime",
        ),
        ("the dead learn", "jax.tree.map(lambda a, b: jnp.where(alive, a, b), new, agent)", "new"),
        (
            "the entropy of the old policy",
            "categorical_entropy(after, FLOOR)",
            "categorical_entropy(before, FLOOR)",
        ),
        (
            "the entropy of the old predictions",
            "categorical_entropy(predicted, FLOOR)",
            "categorical_entropy(inputs.prediction, FLOOR)",
        ),
        (
            "squares are a mean over entries",
            "jnp.sum(said.y_hat**2, axis=-1)",
            "jnp.mean(said.y_hat**2, axis=-1)",
        ),
        ("the gap after the step", "said.y_hat - inputs.prediction", "said.y_hat - predicted"),
        (
            "the step the other way round",
            "categorical_kl(before, after, FLOOR)",
            "categorical_kl(after, before, FLOOR)",
        ),
    ),
    *planted(
        "jaxrl/meta/rule_files.py",
        ("a rule of the other sign", 'if about.get("sign") != SIGN:', "if False:"),
        ("arrays too many", "in {*found, *expected}", "in expected"),
        ("a drift without its settings", 'learned(weights, **about["drift"])', "learned(weights)"),
    ),
    *planted(
        "jaxrl/envs/cart_pole.py",
        ("left is right", "action == 1, p.force, -p.force", "action == 1, -p.force, p.force"),
        ("falls to one side only", "jnp.abs(physics[2]) >", "physics[2] >"),
        tests=(CONTROL,),
    ),
    *planted(
        "jaxrl/envs/pendulum.py",
        ("angle is not wrapped", "-(wrapped**2", "-(state.angle**2"),
        ("one step too many", "state.time >= p.max_steps", "state.time > p.max_steps"),
        tests=(CONTROL,),
    ),
    *planted(
        "jaxrl/envs/point_maze.py",
        ("walls stop nothing", "jnp.where(cell_of(maze, moved) >= 0, moved, position)", "moved"),
        ("the way is not the shortest", "through.argmin(1)", "through.argmax(1)"),
        ("reached from afar", "- state.goal) < REACHED", "- state.goal) < 3 * REACHED"),
    ),
    *planted(
        "jaxrl/envs/two_routes.py",
        (
            "one draw for side and pocket",
            "(key_draws, (2,), 0, 2)",
            "(key_draws, (1,), 0, 2).repeat(2)",
        ),
        (
            "sides are mirrored",
            "jnp.sign(column - START[1]), 0)",
            "jnp.sign(START[1] - column), 0)",
        ),
    ),
    *planted(
        "jaxrl/envs/quota.py",
        ("one step too many", "over = time >= STEPS", "over = time > STEPS"),
        ("the quota is forgotten", "a.keeps_quota == b.keeps_quota, by_return", "True, by_return"),
    ),
    *planted(
        "jaxrl/envs/ledge.py",
        ("the abyss pays", "jnp.where(falls, 0.0, jnp.asarray(EARNED)[seen])", "EARNED[-1]"),
        ("slips are forgotten", "(1 - SLIP) * moved + SLIP * after[..., :PLACES]", "moved"),
    ),
    *planted(
        "jaxrl/envs/pusher.py",
        (
            "the disc leaves the square",
            "jnp.clip(_apart(point, disc), -FURTHEST, FURTHEST)",
            "_apart(point, disc)",
        ),
        (
            "corners alone are walls",
            "(jnp.abs(wanted) > 1).any(-1)",
            "(jnp.abs(wanted) > 1).all(-1)",
        ),
    ),
    *planted(
        "jaxrl/control/protected.py",
        (
            "rivals outside the pool",
            "jnp.where(rivals, jnp.maximum(of_rival + rival @ left - left, 0), 0)",
            "jnp.maximum(of_rival + rival @ left - left, 0)",
        ),
        ("gains are lost", "lost = (1 - reward)", "lost = reward"),
        ("chances alone", "self.chances[arm] + self.rate / 2", "self.chances[arm]"),
        ("regret of the last policy", "self.possible.max(-1)", "self.possible[..., -1]"),
        ("attacks never end", "before ^ (ends &", "before | (ends &"),
    ),
    *planted(
        "jaxrl/control/slim.py",
        ("skills turn", "state=(found.state, skill))", "state=(found.state, -skill))"),
        ("the space stretches", "(weights / spectral_norm(weights))", "weights"),
        (
            "the space unlearns",
            "loss = lambda space: -rewards_in",
            "loss = lambda space: rewards_in",
        ),
        ("rewards keep their size", "rewards * jnp.asarray(scales)[None, None]", "rewards"),
    ),
    *planted(
        "jaxrl/control/spo.py",
        (
            "each wins half against itself",
            "(wins.sum(1) - jnp.diag(wins)) / (len",
            "wins.sum(1) / (len",
        ),
        ("both of a pair are right", "flipped | flipped.T", "flipped"),
        ("rewards of the first step", ".at[:, -1].set(mine)", ".at[:, 0].set(mine)"),
        ("the loser is scored", "score[:, None] - score[None]", "score[None] - score[:, None]"),
        ("the last policy", "num_steps)[1].mean(0)", "num_steps)[1][-1]"),
    ),
    *planted(
        "jaxrl/offline/windows.py",
        (
            "futures of other trajectories",
            "jnp.minimum(jnp.maximum(steps, 1), left)",
            "jnp.maximum(steps, 1)",
        ),
        ("windows run over the end", ">= length - 1)", ">= length - 2)"),
        ("all places draw alike", "(None, 0))(key, places)", "(None, 0))(key, 0 * places)"),
    ),
    *planted(
        "jaxrl/offline/hilp.py",
        (
            "targets move after the step",
            "name: state.params[name] for name in state.target",
            "name: state.target[name] for name in state.target",
        ),
        (
            "the reward moves phi",
            "jax.lax.stop_gradient(reward + gamma * ahead)",
            "reward + gamma * ahead",
        ),
        (
            "the critics' greater value",
            "critics(critic_target).min(0) - v",
            "critics(critic_target).max(0) - v",
        ),
        ("no step is at the goal", "goal == row,", "goal == row - 1,"),
        (
            "plans to the nearer end",
            "jnp.maximum(distance(known, here[None])",
            "jnp.minimum(distance(known, here[None])",
        ),
    ),
    *planted(
        "jaxrl/offline/beso.py",
        (
            "later tokens are read",
            "jnp.tri(x.shape[1], dtype=bool)",
            "jnp.ones((x.shape[1],) * 2, bool)",
        ),
        ("goals from the window", "begin = row + window + jax", "begin = row + jax"),
        ("goals are never left out", "jax.random.bernoulli(key_drop, drop_goal)", "False"),
        ("the window does not move", "jnp.where(is_full, jnp.roll(x, -1, 0), x)", "x"),
        ("the first action is taken", "jnp.clip(x[place], *bounds)", "jnp.clip(x[0], *bounds)"),
        ("guidance by the goal itself", "jnp.zeros_like(goal))", "goal)"),
    ),
    *planted(
        "jaxrl/offline/cloning.py",
        ("goals of the past", "windows.later(key_goal, row + 1, data.last)", "row"),
        (
            "the goal is not read",
            '[inputs["observation"], inputs["goal"]]',
            '[inputs["observation"], 0 * inputs["goal"]]',
        ),
    ),
    *planted(
        "jaxrl/envs/bandit.py",
        ("always the first arm", "jnp.asarray(params.mean)[action]", "jnp.asarray(params.mean)[0]"),
        ("one pull too many", "time >= params.max_steps", "time > params.max_steps"),
        tests=(CONTROL,),
    ),
    *planted(
        "jaxrl/envs/environment.py",
        (
            "a time limit does not reset",
            "done = step.terminated | step.truncated",
            "done = step.terminated",
        ),
        ("actions leave the box", "jnp.clip(action, env.action.low, env.action.high)", "action"),
        tests=(GRID, CONTROL, "tests/jaxrl/test_rollout.py"),
    ),
    *planted(
        "jaxrl/envs/grid_world.py",
        (
            "up is down",
            "jnp.where(action == 1, 1, 0) - jnp.where(action == 0, 1, 0)",
            "jnp.where(action == 0, 1, 0) - jnp.where(action == 1, 1, 0)",
        ),
        ("walls do not stop", "jnp.where(level.walls[target], cell, target)", "target"),
        ("collected objects stay", "(state.exists & ~collected) | back", "state.exists | back"),
        (
            "unused objects appear",
            "back & ~state.exists & level.object_used",
            "back & ~state.exists",
        ),
        ("one step too many", "state.time >= level.max_steps", "state.time > level.max_steps"),
    ),
    *planted(
        "jaxrl/envs/grid_levels.py",
        ("never the largest", "bounds[0], bounds[1] + 1)", "bounds[0], bounds[1])"),
        ("the first reward may be negative", "== 0, 0.0, -1.0)", "== 0, -1.0, -1.0)"),
        (
            "objects in walls",
            "(jnp.arange(num_cells) < size**2) & ~walls",
            "jnp.arange(num_cells) < size**2",
        ),
        tests=(GRID,),
    ),
    *planted(
        "jaxrl/envs/grid_optimum.py",
        ("value after the end", "reward + go_on * expected(value)", "reward + expected(value)"),
        ("objects are not used up", "jnp.where(in_cell, absent, present)", "present"),
        tests=(GRID,),
    ),
]

JAXTTA_LPN = [
    *planted(
        "jaxtta/lpn/loss.py",
        ("sign of the KL", "-0.5 * (1 + logvar", "0.5 * (1 + logvar"),
        (
            "a pair beside itself",
            "mask[:, None] & mask[None] & ~jnp.eye(len(mask), dtype=bool)",
            "mask[:, None] & mask[None]",
        ),
        (
            "padding in the mean",
            "jnp.where(mask, others.latents, 0.0).sum(0)",
            "others.latents.sum(0)",
        ),
        ("weights swapped", "beta * kl + gamma * pairwise_kl", "gamma * kl + beta * pairwise_kl"),
        (
            "variance for deviation",
            "jnp.exp(0.5 * posterior.logvar) * noise",
            "jnp.exp(posterior.logvar) * noise",
        ),
    ),
    *planted(
        "jaxtta/lpn/likelihood.py",
        ("padding cells count", "jnp.where(valid, cells, 0.0).sum(-1)", "cells.sum(-1)"),
        (
            "rows off by one",
            "pick(logits.rows, targets.shape[..., 0] - 1)",
            "pick(logits.rows, targets.shape[..., 0])",
        ),
        ("one exact pair is enough", "exact.all(0)", "exact.any(0)"),
        ("padding pairs are wrong", "return values, exact | ~mask", "return values, exact"),
        tests=(f"{LPN}/test_likelihood.py", f"{LPN}/test_model.py", f"{LPN}/test_loss.py"),
    ),
    *planted(
        "jaxtta/lpn/search.py",
        ("the same point twice", "jnp.where(known.any(-1), -jnp.inf, new.scores)", "new.scores"),
        (
            "not a number wins",
            "jnp.where(proposal.valid & ~jnp.isnan(score), score",
            "jnp.where(proposal.valid, score",
        ),
        (
            "patience without end",
            "jnp.where(state.archive.scores[0] > before, 0, stalled + 1)",
            "jnp.where(state.archive.scores[0] >= before, 0, stalled + 1)",
        ),
        ("steps used are one too many", "archive, index - stopped)", "archive, index)"),
        (
            "one key for all rounds",
            "tell(jax.random.fold_in(state.key, count), ",
            "tell(state.key, ",
        ),
    ),
    *planted(
        "jaxtta/lpn/strategies/ascent.py",
        ("goes downhill", "optimizer.update(-gradient,", "optimizer.update(gradient,"),
        ("dropped clip", "if clip_norm is not None:", "if False:"),
        ("gradient of padding", "jnp.where(proposal.valid[:, None], gradient, 0.0)", "gradient"),
        (
            "gradient through the moves",
            "lax.stop_gradient if stop_",
            "lax.stop_gradient if not stop_",
        ),
    ),
    *planted(
        "jaxtta/lpn/strategies/combined.py",
        (
            "switches one step late",
            "lax.cond(state.step < switch_step, run_first",
            "lax.cond(state.step <= switch_step, run_first",
        ),
        ("rounds one step too long", "(age >= every) if patience", "(age > every) if patience"),
        (
            "restarts at the same place",
            "memory.starts + scale * noise",
            "memory.starts + 0 * noise",
        ),
    ),
    *planted(
        "jaxtta/lpn/strategies/evolution.py",
        ("keeps the worse", "evaluated.scores > score", "evaluated.scores < score"),
        (
            "smoothing the wrong way",
            "mean + smoothing * (fitted",
            "mean + (1 - smoothing) * (fitted",
        ),
        ("noise without its mirror image", "[half, -half]", "[half, half]"),
        ("goes downhill", "transform.update(-gradient,", "transform.update(gradient,"),
    ),
    *planted(
        "jaxtta/lpn/strategies/sampling.py",
        ("variance for deviation", "jnp.exp(0.5 * logvar)", "jnp.exp(logvar)"),
        ("start points again", "start_mask & first", "start_mask"),
        ("around padding", "jnp.argsort(~start_mask, stable", "jnp.argsort(start_mask, stable"),
    ),
    *planted(
        "jaxtta/lpn/starts.py",
        (
            "the unsure weigh most",
            "jnp.where(used, -logvar, -jnp.inf)",
            "jnp.where(used, logvar, -jnp.inf)",
        ),
        ("the first place, valid or not", "latents[jnp.argmax(mask)]", "latents[0]"),
        ("noise without its scale", "scale * noise", "noise"),
        ("variance for deviation", "jnp.exp(0.5 * posterior.logvar)", "jnp.exp(posterior.logvar)"),
    ),
    *planted(
        "jaxtta/lpn/train.py",
        (
            "weights of a micro-batch sum to one",
            "tasks.weight / total",
            "tasks.weight / tasks.weight.sum()",
        ),
        (
            "all tasks share a key",
            "(None, 0))(key, tasks.index)",
            "(None, 0))(key, 0 * tasks.index)",
        ),
        ("the last micro-batch is left out", "jnp.arange(1, num + 1), 0)", "jnp.arange(num), 0)"),
        ("the last latent, not the best", "result.best_latents[0]", "result.latents[-1, 0]"),
    ),
    *planted(
        "jaxtta/lpn/baselines.py",
        ("mean instead of sum", "return loss * demos.mask.sum()", "return loss"),
        (
            "padding pairs in the context",
            "context_valid=pairs.mask[index], key",
            "context_valid=None, key",
        ),
        (
            "adapted parameters do not encode",
            "_encodings(lpn, adapted, pairs)",
            "_encodings(lpn, params, pairs)",
        ),
    ),
    *planted(
        "jaxtta/lpn/encoder.py",
        ("input and output look the same", "lift(tag[channel],", "lift(tag[0],"),
        (
            "padding cells are read",
            "valid += [jnp.ones(counts.shape[:-1], bool), inside]",
            "valid += [jnp.ones(counts.shape[:-1], bool), jnp.ones_like(inside)]",
        ),
        tests=(f"{LPN}/test_model.py", f"{LPN}/test_reference.py"),
    ),
    *planted(
        "jaxtta/lpn/decoder.py",
        (
            "sees the cells to come",
            "jnp.tril(jnp.ones((length, length), bool))",
            "jnp.ones((length, length), bool)",
        ),
        ("counts off by one", "table(counts - 1)[..., None, :]", "table(counts)[..., None, :]"),
        (
            "cells one place early",
            "self.cell_logits(hidden[..., 1:, :])",
            "self.cell_logits(hidden[..., :-1, :])",
        ),
        (
            "padding cells are read",
            "return self._tokens(x, coords, valid)",
            "return self._tokens(x, coords)",
        ),
        tests=(f"{LPN}/test_model.py", f"{LPN}/test_generation.py", f"{LPN}/test_reference.py"),
    ),
    *planted(
        "jaxtta/lpn/generation.py",
        ("colours beyond the grid", "jnp.where(k < num_cells, colour, 0)", "colour"),
        ("writes over the last token", "prefix + 2 + k\n", "prefix + 1 + k\n"),
    ),
    *planted(
        "jaxtta/lpn/solve.py",
        (
            "the same grid twice",
            "jnp.argmin(same | ~valid[:, None], axis=-1)",
            "0 * same.sum(-1)",
        ),
        ("what was never scored", "same | ~valid[:, None]", "same"),
        ("only what was kept", "(len(scores) - 1).bit_length()", "0"),
        ("the worst on the way", "jnp.argsort(-scores[rows])", "jnp.argsort(scores[rows])"),
        (
            "scores of other latents",
            "scores[:, None], pick, axis=2",
            "scores[:, None], 0 * pick, 2",
        ),
        ("trajectory of the worst", "jax.lax.cummax(", "jax.lax.cummin("),
        (
            "trail of another start",
            "jnp.argmax(result.scores.max(0))",
            "jnp.argmin(result.scores.max(0))",
        ),
    ),
    *planted(
        "jaxtta/lpn/views.py",
        (
            "a reflection is turned back",
            "jnp.where(view.mirror, view.turns, -view.turns % 4)",
            "-view.turns % 4",
        ),
        ("colours are not changed back", "jnp.argsort(view.table, axis=-1)", "view.table"),
        ("the first view is changed", "table.at[1:].set(drawn)", "table.at[:-1].set(drawn)"),
        (
            "ways come again at once",
            "jax.random.permutation(key_ways, jnp.arange(1, len(ways)))",
            "jnp.ones(len(ways) - 1, int)",
        ),
        ("equal grids do not add up", "jnp.where(same, votes[..., None, :], 0).sum(-1)", "votes"),
        ("likelihood before votes", "(-scores, -count)", "(-count, -scores)"),
        ("the same grid twice", "jnp.take_along_axis(order, second, axis=-1)", "first"),
        ("second attempts vote", "jnp.arange(2 * number) % 2 == 0", "jnp.arange(2 * number) >= 0"),
        (
            "one key for all views",
            "others = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(1, number))",
            "others = jnp.broadcast_to(key, (number - 1,))",
        ),
        (
            "predictions stay changed",
            "jax.vmap(jax.vmap(seen))(opposite(views), found.attempts)",
            "found.attempts",
        ),
        (
            "the worst view speaks",
            "jnp.argmax(found.scores[:, :, 0], axis=1)",
            "jnp.argmin(found.scores[:, :, 0], axis=1)",
        ),
    ),
    *planted(
        "jaxtta/lpn/import_weights.py",
        (
            "copies of several models",
            "not np.array_equal(copies, np.broadcast_to(copies[0], copies.shape))",
            "False",
        ),
        (
            "integers are weights",
            "elif not jnp.issubdtype(arrays[name].dtype, jnp.floating):",
            "elif False:",
        ),
        (
            "unknown leaves pass",
            "unknown = sorted(set(arrays) - set(expected))",
            "unknown: list[str] = []",
        ),
        tests=(f"{LPN}/test_reference.py",),
    ),
    *planted(
        "jaxtta/lpn/model.py",
        (
            "encoder and decoder share a key",
            "encoder = self._encoder.init(key_encoder,",
            "encoder = self._encoder.init(key_decoder,",
        ),
        (
            "both sides drop the same",
            "(None, None) if key is None else jax.random.split(key)",
            "(key, key)",
        ),
        (
            "output for input",
            "Encoder.__call__, pairs.inputs, pairs.outputs",
            "Encoder.__call__, pairs.outputs, pairs.inputs",
        ),
        ("empty slots are read", "if context_valid is None:", "if True:"),
        tests=(f"{LPN}/test_model.py", f"{LPN}/test_reference.py", f"{LPN}/test_baselines.py"),
    ),
    *planted(
        "jaxtta/lpn/stack.py",
        (
            "columns turn by their row",
            "places[..., None, :, axis, None]",
            "places[..., None, :, 0, None]",
        ),
        ("corners for centres", "(2 * index + 1) / size - 1", "2 * index / size - 1"),
        (
            "columns have no place",
            "code(row_table, rows) + code(col_table, cols)",
            "code(row_table, rows)",
        ),
        ("counted from zero", "factor = (index + 1)[..., None]", "factor = index[..., None]"),
        (
            "tables are not dropped out",
            'return self.drop(x.astype(self.dtype), deterministic=not self.has_rng("dropout"))',
            "return x.astype(self.dtype)",
        ),
        tests=(f"{LPN}/test_stack.py", f"{LPN}/test_model.py", f"{LPN}/test_reference.py"),
    ),
]

JAXTTA_IMAGES = [
    *planted(
        "jaxtta/images/adanpc.py",
        (
            "writes one place further",
            "jnp.cumsum(joins) - 1) % growth",
            "jnp.cumsum(joins)) % growth",
        ),
        ("the unsure join", "(confidence >= min_confidence)", "(confidence <= min_confidence)"),
        ("temperature upside down", "near / temperature", "near * temperature"),
        ("empty places vote", "jnp.where(filled[None], v @ entries.T, -jnp.inf)", "v @ entries.T"),
    ),
    *planted(
        "jaxtta/images/batch_statistics.py",
        ("prior and batch swapped", "a = number / (number", "a = prior_strength / (number"),
        (
            "predicts before the update",
            "apply_fn(state.params, model_state, inputs, norm=SOURCE",
            "apply_fn(state.params, state.model_state, inputs, norm=SOURCE",
        ),
        (
            "missing mask",
            "jnp.where(mask[:, None], jax.nn.softmax(logits), 0)",
            "jax.nn.softmax(logits)",
        ),
    ),
    *planted(
        "jaxtta/images/cafa.py",
        (
            "moves away from the class",
            "jnp.log(intra) - jnp.log(inter)",
            "jnp.log(inter) - jnp.log(intra)",
        ),
        ("the own class among the others", "(classes - 1), tiny)", "classes, tiny)"),
    ),
    *planted(
        "jaxtta/images/contrast.py",
        (
            "a view repels itself",
            "counted[None, None, None] & ~itself",
            "counted[None, None, None]",
        ),
        ("repels its own row", "(total - attracted).mean(0)", "(attracted - total).mean(0)"),
        tests=(f"{IMAGES}/test_rmt.py",),
    ),
    *planted(
        "jaxtta/images/denoising.py",
        ("products one step late", "np.sqrt(before) * betas", "np.sqrt(products) * betas"),
        ("images are not centred", '2 * inputs["inputs"] - 1', 'inputs["inputs"]'),
        ("steps in the wrong order", "jnp.arange(number)[::-1]", "jnp.arange(number)"),
    ),
    *planted(
        "jaxtta/images/deyo.py",
        (
            "difference with the wrong sign",
            "confidence(seen.logits) - confidence(seen.probe(changed, sure))",
            "confidence(seen.probe(changed, sure)) - confidence(seen.logits)",
        ),
        (
            "the unsure weigh most",
            "jnp.exp(reference - uncertainty)",
            "jnp.exp(uncertainty - reference)",
        ),
        ("shape is not asked for", "Choice(sure & (difference > min_difference)", "Choice(sure"),
        tests=(f"{IMAGES}/test_entropy.py",),
    ),
    *planted(
        "jaxtta/images/eata.py",
        ("redundant rows only", "jnp.abs(cosine) < redundancy", "jnp.abs(cosine) > redundancy"),
        ("swapped average", "0.9 * mean + 0.1 * new", "0.1 * mean + 0.9 * new"),
        ("pulled to zero", "(f * (x - x0) ** 2)", "(f * x**2)"),
        ("square of the mean", "(g**2).mean(0)", "g.mean(0) ** 2"),
        tests=(f"{IMAGES}/test_entropy.py",),
    ),
    *planted(
        "jaxtta/images/entropy.py",
        (
            "the unknown only",
            ">= confidence(source_logits) - slack",
            "<= confidence(source_logits) - slack",
        ),
        ("missing mask", "candidates = counted & agrees", "candidates = agrees"),
        ("less diversity", "jnp.asarray(diversity) *", "-jnp.asarray(diversity) *"),
        ("updates with no row", "optimizer, (number > 0) & matters)", "optimizer, matters)"),
    ),
    *planted(
        "jaxtta/images/itta.py",
        ("the last layer is cut too", "if i < depth - 1 else x", "if i < depth else x"),
        ("mixed at the other stage", "mixing.stage == k", "mixing.stage != k"),
        (
            "answers without the blocks",
            "lambda k, x: run_chain(state.params[k], x))",
            "lambda k, x: x)",
        ),
    ),
    *planted(
        "jaxtta/images/label_shift.py",
        ("swapped average", "decay * old + (1 - decay) * new", "(1 - decay) * old + decay * new"),
        (
            "correction with the wrong sign",
            "jnp.log(adapter.prior) - jnp.log(target)",
            "jnp.log(target) - jnp.log(adapter.prior)",
        ),
        ("scale without its one", "features * (1 + gamma)", "features * gamma"),
    ),
    *planted(
        "jaxtta/images/lame.py",
        (
            "sign of the network's word",
            "jax.nn.softmax(pairwise - unary)",
            "jax.nn.softmax(pairwise + unary)",
        ),
        (
            "one neighbour too far",
            "jnp.minimum(num_neighbors, number) - 1",
            "jnp.minimum(num_neighbors, number - 1)",
        ),
        ("a row is its own neighbour", "(rank >= 1) &", "(rank >= 0) &"),
    ),
    *planted(
        "jaxtta/dense/teacher.py",
        (
            "the teacher labels before it looks",
            "core.update(state._replace(opt_state=opt_state, memory=memory), now, key)",
            "core.update(state, now, key)",
        ),
        ("moments always leak", "moments if leaky_moments else state.opt_state", "moments"),
        (
            "looks ahead at once",
            "state.memory.num_updates > 0, new, held",
            "state.memory.num_updates >= 0, new, held",
        ),
        (
            "swapped average",
            "trees.ema(memory.teacher, state.params, share)",
            "trees.ema(state.params, memory.teacher, share)",
        ),
        ("counts leak", "x if is_real(x) else y, new, old", "x, new, old"),
        (
            "one step ahead for all",
            "after = tried(start, batch, jax",
            "after = tried(start, jax.tree.map(lambda x: x[0], ahead), jax",
        ),
        tests=("tests/jaxtta/dense/test_teacher.py",),
    ),
    *planted(
        "jaxtta/dense/fst.py",
        ("a third of the classes", "(present.sum() + 1) // 2", "(present.sum() + 2) // 3"),
        (
            "guesses weigh as much as labels",
            "jnp.where(mask, 1.0, sure)",
            "jnp.ones_like(mask, sure.dtype)",
        ),
        (
            "the target covers the source",
            "jnp.where(mask[..., None], images, target)",
            "jnp.where(mask[..., None], target, images)",
        ),
        (
            "the student labels",
            "apply_fn(teacher, model_state, target",
            "apply_fn(student, model_state, target",
        ),
    ),
    *planted(
        "jaxtta/images/mean_teacher.py",
        (
            "restores what should stay",
            "jnp.where, returning, source, params)",
            "jnp.where, returning, params, source)",
        ),
        (
            "swapped average",
            "trees.ema(state.memory, stepped.params,",
            "trees.ema(stepped.params, state.memory,",
        ),
        (
            "augments when sure",
            "unsure = confidence < min_confidence",
            "unsure = confidence > min_confidence",
        ),
        (
            "pixels may move",
            "if of_source.ndim > 2 and augmentation is None:",
            "if False:",
        ),
        tests=(f"{IMAGES}/test_mean_teacher.py", f"{IMAGES}/test_pixels.py"),
    ),
    *planted(
        "jaxtta/images/memo.py",
        ("views are not averaged", "axis=0) - jnp.log(len(logits))", "axis=0)"),
        (
            "the same views in every step",
            "jax.random.split(jax.random.fold_in(key, i), num_views)",
            "jax.random.split(key, num_views)",
        ),
        ("answers before the step", "predict(params, x[None])[0]", "predict(source, x[None])[0]"),
    ),
    *planted(
        "jaxtta/images/nhl.py",
        ("no decay", "(seen - kernel * answered", "(seen + kernel * answered"),
        (
            "missing mask",
            "jnp.where(counts, jax.nn.softmax(u / temperature), 0)",
            "jax.nn.softmax(u / temperature)",
        ),
        ("change upside down", "towards * _norms(kernel)", "towards / _norms(kernel)"),
    ),
    *planted(
        "jaxtta/images/petal.py",
        ("restores what matters", "jnp.where(f < limit, x0, x)", "jnp.where(f > limit, x0, x)"),
        ("sign of the variance", "s - m**2", "s + m**2"),
        ("variance for precision", "(x - mean) ** 2 / safe", "(x - mean) ** 2 * safe"),
        ("the first epoch counts", "jnp.where(i > 0, x, 0)", "x"),
    ),
    *planted(
        "jaxtta/images/rmt.py",
        (
            "swapped average",
            "trees.ema(memory.teacher, student.params,",
            "trees.ema(student.params, memory.teacher,",
        ),
        ("the student alone answers", "scored = logits + teacher_logits", "scored = logits"),
    ),
    *planted(
        "jaxtta/images/roid.py",
        ("keeps the common rows", "distance >= mean_rows", "distance <= mean_rows"),
        (
            "nearly all of the source",
            "state.source, 1 - source_share",
            "state.source, source_share",
        ),
        (
            "swapped average",
            "0.9 * state.memory + 0.1 * mean_rows",
            "0.1 * state.memory + 0.9 * mean_rows",
        ),
        ("correction upside down", "logits * factor", "logits / factor"),
    ),
    *planted(
        "jaxtta/images/rotta.py",
        ("nothing grows old", "bank.age + 1", "bank.age"),
        ("age does not matter", "fresh / (1 + fresh)", "1 / (1 + fresh)"),
        (
            "swapped average",
            "trees.ema(memory.teacher, stepped.params,",
            "trees.ema(stepped.params, memory.teacher,",
        ),
        (
            "rivals swapped",
            "jnp.where(below_quota, largest, own)",
            "jnp.where(below_quota, own, largest)",
        ),
        ("forgets who waits", "(waiting + number) % update_every", "number % update_every"),
    ),
    *planted(
        "jaxtta/images/sar.py",
        ("goes down first", "x + (radius * g", "x - (radius * g"),
        ("swapped average", "0.9 * old.value + 0.1 * value", "0.1 * old.value + 0.9 * value"),
        ("resets while all is well", "(seen.value < reset_below)", "(seen.value > reset_below)"),
        (
            "forgets who was unreliable",
            "jax.tree.map(climb, state.params, first), reliable",
            "jax.tree.map(climb, state.params, first), valid",
        ),
        tests=(f"{IMAGES}/test_entropy.py",),
    ),
    *planted(
        "jaxtta/images/sda.py",
        ("the unsure weigh most", "(e2, e1) if kind", "(e1, e2) if kind"),
        ("pushed away from the image", "- strength * pull", "+ strength * pull"),
        ("takes the less sure", "e1 >= e2 if", "e1 <= e2 if"),
        ("images are not centred", "x0 = 2 * images - 1", "x0 = images"),
    ),
    *planted(
        "jaxtta/images/vdp.py",
        (
            "sign of the path",
            "importance.path - grads.agnostic * step",
            "importance.path + grads.agnostic * step",
        ),
        ("negative importance", "jnp.maximum(importance.path, 0)", "importance.path"),
        ("half the gradient", "2 * weight * importance.total", "weight * importance.total"),
        ("a new domain all the time", "> detection_threshold", "< detection_threshold"),
    ),
    *planted(
        "jaxtta/images/vida.py",
        ("noise too large", "/ rank**2", "/ rank"),
        ("scales the wrong way", "threshold, 1, -1)", "threshold, -1, 1)"),
        (
            "swapped average",
            "trees.ema(state.memory.teacher[name], stepped.params[name],",
            "trees.ema(stepped.params[name], state.memory.teacher[name],",
        ),
    ),
    *planted(
        "jaxtta/images/changes/augmix.py",
        (
            "shares swapped",
            "share * start + (1 - share) * mixed",
            "share * mixed + (1 - share) * start",
        ),
        (
            "one operation too many",
            "jnp.where(i < depth, changed, x)",
            "jnp.where(i <= depth, changed, x)",
        ),
        (
            "dark pixels are turned",
            "jnp.where(x < threshold, x, 255 - x)",
            "jnp.where(x > threshold, x, 255 - x)",
        ),
        tests=(f"{IMAGES}/test_memo.py",),
    ),
    *planted(
        "jaxtta/images/changes/corruptions.py",
        (
            "photons without light",
            "jax.random.poisson(key, x * photons)",
            "jax.random.poisson(key, x)",
        ),
        ("contrast about zero", "(x - means) * constant", "x * constant"),
        ("fog brightens", "* brightest / (brightest + thickness)", "* 1.0"),
    ),
    *planted(
        "jaxtta/images/changes/cotta_augment.py",
        ("blend swapped", "factor * x + (1 - factor) * other", "factor * other + (1 - factor) * x"),
        (
            "shift the other way",
            "place[None, :] - drawn.shift[0]",
            "place[None, :] + drawn.shift[0]",
        ),
        ("the edge twice", "2 * side - 2 - i", "2 * side - 1 - i"),
    ),
    *planted(
        "jaxtta/images/changes/mixstyle.py",
        (
            "shares swapped",
            "share * own + (1 - share) * all_rows",
            "(1 - share) * own + share * all_rows",
        ),
        ("biased variance", "/ max(size - 1, 1)", "/ size"),
        ("gradient through the style", "fixed = jax.lax.stop_gradient(x)", "fixed = x"),
        tests=(f"{IMAGES}/test_itta.py",),
    ),
    *planted(
        "jaxtta/adaptation.py",
        ("old for new", "jnp.where(condition, x, y)", "jnp.where(condition, y, x)"),
        ("missing mask", "chosen = jnp.where(mask[:, None], values, 0)", "chosen = values"),
        (
            "resets one batch late",
            "state.num_batches + 1 == num_batches",
            "state.num_batches == num_batches",
        ),
        (
            "sign of the entropy",
            "return -(jnp.exp(log_p)",
            "return (jnp.exp(log_p)",
        ),
        ("padding in the window", "jnp.zeros(size, bool)", "jnp.ones(size, bool)"),
        tests=(
            f"{IMAGES}/test_entropy.py",
            f"{IMAGES}/test_single_images.py",
            f"{IMAGES}/test_roid.py",
        ),
    ),
    *planted(
        "jaxtta/batches.py",
        ("one NaN counts", "Given(cleaned, rows, rows & finite)", "Given(cleaned, rows, rows)"),
        ("a class left out spoils the row", "(logits).max(-1))", "(logits).min(-1))"),
        (
            "infinite once is refused for ever",
            "(jnp.isfinite(x) | ~jnp.isfinite(y)).all()",
            "jnp.isfinite(x).all()",
        ),
    ),
    *planted(
        "jaxtta/batches.py",
        ("a bad pixel passes", "reshape(len(good), -1).all(-1)", "reshape(len(good), -1).any(-1)"),
        tests=(f"{IMAGES}/test_pixels.py",),
    ),
    *planted(
        "jaxtta/draws.py",
        ("given draws are not used", "if isinstance(given, kind):", "if given is kind:"),
        (
            "what rows share and what is theirs swapped",
            "shared, rows = jax.random.split(key)",
            "rows, shared = jax.random.split(key)",
        ),
        tests=("tests/jaxtta/test_draws.py", f"{IMAGES}/test_roid.py"),
    ),
    *planted(
        "jaxtta/evaluation.py",
        ("never reset", "where(reset, initial, state)", "state"),
        ("a part begins at step 0", "first + jnp.arange(stream", "jnp.arange(stream"),
    ),
    *planted(
        "jaxtta/scores.py",
        ("bins one place up", "* num_bins).astype(int) - 1", "* num_bins).astype(int)"),
        ("calibration without weights", "- total(confidence)).sum()", "- total(confidence)).max()"),
    ),
    *planted(
        "jaxtta/streams.py",
        ("the top twice", "up[-2::-1]", "up[::-1]"),
        (
            "domain and image swapped",
            "np.asarray(domains)[order // num_images], order % num_images",
            "np.asarray(domains)[order % len(domains)], order % num_images",
        ),
        ("padding counts", "mask = place < len(index)", "mask = place >= 0"),
    ),
]

JAXTTA_IN_CONTEXT = [
    *planted(
        "jaxtta/in_context/evaluate.py",
        (
            "the control is not shuffled",
            "_shuffle(key_shuffle, index, y) if probe.shuffled else y",
            "y",
        ),
        ("seen tasks for unseen", "0 if probe.seen else FIRST_UNSEEN", "0"),
        (
            "deviation for error",
            "a.std(0, ddof=1) / jnp.sqrt(1.0 * num_sequences)",
            "a.std(0, ddof=1)",
        ),
        tests=(f"{IN_CONTEXT}/test_train.py",),
    ),
    *planted(
        "jaxtta/in_context/gradient_learners.py",
        ("never learns", "optax.apply_updates(weights, updates)", "weights"),
        ("a random start for the learned one", "        if learned_init:", "        if False:"),
        ("one hidden layer", "network = _MLP(width, 3,", "network = _MLP(width, 2,"),
    ),
    *planted(
        "jaxtta/in_context/learner.py",
        (
            "sees the label it predicts",
            "jax.nn.one_hot(memory.label, num_classes)",
            "jax.nn.one_hot(y, num_classes)",
        ),
        (
            "a label before the first",
            "jnp.full((batch_size,), -1, jnp.int32)",
            "jnp.full((batch_size,), 0, jnp.int32)",
        ),
        tests=(f"{IN_CONTEXT}/test_recurrent.py", f"{IN_CONTEXT}/test_learners.py"),
    ),
    *planted(
        "jaxtta/in_context/learner.py",
        ("one label too many", "greatest >= num_classes", "greatest > num_classes"),
        (
            "a memory too full",
            "int(memory.position) > learner.max_context",
            "int(memory.position) > learner.max_context + 9",
        ),
        tests=(f"{IN_CONTEXT}/test_learner_refusals.py",),
    ),
    *planted(
        "jaxtta/in_context/evaluate.py",
        ("negative labels", "((y >= 0) & (y < learner.num_classes))", "(y < learner.num_classes)"),
        tests=(f"{IN_CONTEXT}/test_learner_refusals.py",),
    ),
    *planted(
        "jaxtta/in_context/transformer.py",
        (
            "an answer from a clamped position",
            "jnp.where(memory.position <= last, logits, jnp.nan)",
            "logits",
        ),
        tests=(f"{IN_CONTEXT}/test_learner_refusals.py",),
    ),
    *planted(
        "jaxtta/in_context/recurrent.py",
        (
            "forgets by default",
            "cell = nn.sigmoid(f + 1.0) * cell + nn.sigmoid(i) * jnp.tanh(g)",
            "cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)",
        ),
        ("adds instead of replacing", "beta * (v - old)", "beta * v"),
        ("reads along the other axis", '"bnij,bni->bnj"', '"bnij,bnj->bni"'),
    ),
    *planted(
        "jaxtta/in_context/regimes.py",
        (
            "general the wrong way",
            "improvement_unseen > threshold",
            "improvement_unseen < threshold",
        ),
        ("the beginning twice", "accuracy[..., -last:]", "accuracy[..., :last]"),
        tests=(f"{IN_CONTEXT}/test_train.py",),
    ),
    *planted(
        "jaxtta/in_context/sequences.py",
        (
            "every sequence has its own task",
            "fold_in(keys[0], index // sequences_per_task)",
            "fold_in(keys[0], index)",
        ),
        ("unseen tasks are the seen ones", "k + jnp.uint32(first_task)", "k"),
        (
            "bias the wrong way",
            "jax.random.uniform(key_bias) >= bias",
            "jax.random.uniform(key_bias) < bias",
        ),
        tests=(f"{IN_CONTEXT}/test_tasks.py",),
    ),
    *planted(
        "jaxtta/in_context/tasks.py",
        (
            "scaled by the outputs",
            "(d, n // blocks)) / jnp.sqrt(1.0 * n)",
            "(d, n // blocks)) / jnp.sqrt(1.0 * d)",
        ),
        (
            "permuted the wrong way",
            "jnp.where(permuted, jax.random.permutation(key, num_classes), identity)",
            "jnp.where(permuted, identity, jax.random.permutation(key, num_classes))",
        ),
        ("bias grows", "1.0 - (1.0 - jnp.asarray(bias)) *", "(1.0 - jnp.asarray(bias)) *"),
    ),
    *planted(
        "jaxtta/in_context/train.py",
        ("updates are not counted", "step + 1.0 if train else step", "step"),
        ("the first for the last", "right[:, -1].mean()", "right[:, 0].mean()"),
    ),
    *planted(
        "jaxtta/in_context/transformer.py",
        (
            "a query sees its own label",
            "jnp.tri(size, k=-1, dtype=bool)",
            "jnp.tri(size, dtype=bool)",
        ),
        (
            "labels are not shifted",
            "jnp.concatenate([jnp.full_like(y[:, :1], -1), y[:, :-1]], axis=1)",
            "y",
        ),
        (
            "reads an empty place",
            "jnp.arange(self.length)[None] < memory.position",
            "jnp.arange(self.length)[None] <= memory.position",
        ),
        tests=(f"{IN_CONTEXT}/test_transformer.py", f"{IN_CONTEXT}/test_learners.py"),
    ),
    *planted(
        "jaxtta/in_context/vsml.py",
        ("one tick only", "range(self.num_ticks)", "range(1)"),
        ("no memory", "fixed + recurrent(hidden), cell", "fixed + recurrent(0 * hidden), cell"),
        (
            "messages of rows are read",
            "messages = state[2].reshape",
            "messages = state[3].reshape",
        ),
    ),
]

LM = [
    *planted(
        "experiments/data/trajectories.py",
        ("a file is not read", "if path := options.path:", 'if path := "":'),
        ("NaN in trajectories passes", "windows.NAMES, finite=True", "windows.NAMES"),
        tests=("tests/experiments/test_skills.py",),
    ),
    *planted(
        "experiments/offline/mazes.py",
        ("short trips", "maze.distance >= least", "maze.distance <= least"),
        (
            "who has arrived goes on",
            "jnp.where(there, position, move",
            "jnp.where(False, position, move",
        ),
    ),
    *planted(
        "experiments/control.py",
        ("the time is not seen", "return observation * action", "return observation * 0 + action"),
        ("nothing is drawn", 'if any(f"eval/{name}" in', 'if any(f"evaluation/{name}" in'),
    ),
    *planted(
        "experiments/rl/defending.py",
        ("the worst is the average", "else payoff.min(1)", "else payoff.mean(1)"),
        ("a pool of none", "np.ones(len(payoff), bool)", "np.zeros(len(payoff), bool)"),
        tests=("tests/experiments/test_control.py",),
    ),
    *planted(
        "experiments/rl/pushing.py",
        ("walls are free", "-1.0 * bumps(", "0.0 * bumps("),
        ("cells are counted twice", ".set(1.0).mean()", ".add(1.0).mean()"),
        tests=("tests/experiments/test_control.py",),
    ),
    *planted(
        "jaxtrain/host/begin.py",
        (
            "rates that nothing reads",
            'has_rates and was_read(config, "optimizer.schedule")',
            "has_rates",
        ),
        tests=("tests/experiments/test_control.py",),
    ),
    *planted(
        "experiments/imitation.py",
        (
            "goals are never exchanged",
            '(("error", 0), ("error_other_goal", 1))',
            '(("error", 0), ("error_other_goal", 0))',
        ),
        ("a number without its name", '("error_other_goal", 1))', '("error_other", 1))'),
        ("errors to the same goal", '["goal"], turn, axis=0)', '["goal"], 0, axis=0)'),
    ),
    *planted(
        "experiments/skills.py",
        ("plans are not made", 'if way == "plan":', 'if way == "none":'),
        ("random directions are none", 'memory if way == "random" else direction', "direction"),
        ("steps to the wrong row", "return end - row,", "return row - end,"),
    ),
    *planted(
        "experiments/data/tokenisers.py",
        ("digits are merged", 'if splits == "smollm" else []', "if False else []"),
        ("delimiters are whole tokens", "delimiter in text for", "delimiter == text for"),
        ("two systems speak", "head = [] if begins or", "head = [] if"),
    ),
    *planted(
        "experiments/data/lm_assets.py",
        ("the last part is the model", "given |= part", "given = part"),
        ("everybody chats", 'if "<|im_start|>" not in template:', "if template == 1:"),
    ),
    *planted(
        "experiments/lm_chat.py",
        ("answers are too long", "min(BURST, longest - number)", "BURST"),
        ("a conversation has no end", "if room < 1:", "if room < -999:"),
        ("later turns begin anew", '_replace(system="")', '_replace(end="")'),
    ),
    *planted(
        "jaxtrain/lm/decoder.py",
        ("tokens read the future", "past[None, None]", "(past | True)[None, None]"),
        (
            "packed texts read each other",
            "(reader == valid[:, None, None]) & ",
            "(valid > 0)[:, None, None] & ",
        ),
        ("positions count empty slots", "jnp.cumsum(text > 0", "jnp.cumsum(text >= 0"),
        ("a text is predicted from another", "(earlier >= 0) & same", "(earlier >= 0)"),
        ("scores skip no empty slot", "jnp.where(valid > 0, slots, -1)", "slots"),
    ),
    *planted(
        "jaxtrain/lm/logits.py",
        ("masked tokens are scored", "jnp.where(wanted, x, 0), made)", "x, made)"),
        ("top-p sees what top-k took", "jnp.where(kept, sorted_, -jnp.inf)", "sorted_"),
        ("all logits are kept", "jax.lax.map(jax.checkpoint(step)", "jax.lax.map((step)"),
        ("min-p of an absolute size", "scaled >= best + jnp.log(", "scaled >= jnp.log("),
        ("entropy of what is drawn", "(jnp.exp(plain) * plain)", "(jnp.exp(drawn) * plain)"),
    ),
    *planted(
        "jaxtrain/lm/sampling.py",
        (
            "draws depend on the padding",
            "decoding.keys, decoding.valid.sum(axis=1))",
            "decoding.keys, decoding.cursor + 0 * budget)",
        ),
        ("an end is only a stop", "done=decoding.done | ended", "done=decoding.done"),
        (
            "copies draw alike",
            "same.sum(axis=1) > 1, new, keys)",
            "same.sum(axis=1) > 9, new, keys)",
        ),
        ("a block without a token moves the state", "some[:, None], _last", "True, _last"),
        ("compact gives no room back", "decoding.valid.sum(axis=1).max()", "decoding.cursor"),
        (
            "nothing resets a stop",
            "jnp.where(budget > 0, decoding.done",
            "jnp.where(budget < 0, decoding.done",
        ),
    ),
    *planted(
        "jaxtrain/lm/sequences.py",
        (
            "given tokens carry the loss",
            "text.mask[number, slots - size :] = own",
            "text.mask[number, slots - size :] = True",
        ),
        ("the common prefix carries the loss", "axis=1) > shared)", "axis=1) > 0)"),
        ("empty slots hold samples", "decoding.generated & decoding.valid", "decoding.generated"),
        ("packed texts have one number", "texts[row] += 1", "texts[row] = 1"),
        ("empty slots end a turn", "ends = (valid > 0) & (before", "ends = (before"),
    ),
    *planted(
        "jaxtrain/lm/weights.py",
        ("halves are taken for pairs", "if halves and _turns(name):", "if False:"),
        ("all of GGUF is in halves", 'architecture != "llama"', "True"),
        ("too many arrays are fine", "for name in sorted(left)]", "for name in []]"),
        ("scaled positions are plain", 'kind != "default",', "False,"),
    ),
]

JAXTRAIN = [
    *planted(
        "jaxtrain/schedules/shapes.py",
        (
            "decays one step late",
            "share(t, warmup_steps - 1, total_steps",
            "share(t, warmup_steps, total_steps",
        ),
        ("a first cosine update without rate", "rise = (t + 1) / max", "rise = t / max"),
        ("never repeats", "shape(jnp.asarray(step) % period)", "shape(jnp.asarray(step))"),
        ("no root", "jnp.sqrt(w / t)", "w / t"),
        ("a share of 1.0 is one step", "isinstance(value, float) and value <= 1", "value < 1"),
        ("the last value too soon", "len(rates) - 1)]", "len(rates) - 2)]"),
    ),
    *planted(
        "jaxtrain/schedules/infinite.py",
        ("a first update without rate", "peak * (n + 1) / jnp", "peak * n / jnp"),
        ("cools the wrong way", "(1 + jnp.cos(jnp.pi * u)) / 2", "(1 - jnp.cos(jnp.pi * u)) / 2"),
        (
            "annealing never starts",
            "AnnealState(x.count, x.count)",
            "AnnealState(x.count, x.anneal_start)",
        ),
        (
            "anneals along a line",
            "top * (end / jnp.maximum(top, end)) ** u",
            "top + (end - top) * u",
        ),
        tests=("tests/jaxtrain/schedules/test_shapes.py",),
    ),
    *planted(
        "jaxtrain/schedules/refinement.py",
        ("the step itself in its tail", "np.append(tails[1:], 0.0)", "tails"),
        ("large norms, large weights", "(g.min() / g) **", "(g / g.min()) **"),
        ("the official start", 'if ends == "mirror" else g[:0]', "if False else g[:0]"),
        ("norms swapped", '(g if ord == "l1" else g**2)', '(g**2 if ord == "l1" else g)'),
    ),
    *planted(
        "jaxtrain/schedules/autolrs.py",
        ("takes the worst rate", "jnp.argmin(state.forecasts)", "jnp.argmax(state.forecasts)"),
        (
            "probes do not go back",
            "lambda s: s.inner, lambda s: s.snapshot, state)",
            "lambda s: s.inner, lambda s: s.inner, state)",
        ),
        (
            "a diverged probe goes on",
            "probing & ~finite, lambda new",
            "jnp.asarray(False), lambda new",
        ),
    ),
    *planted(
        "jaxtrain/schedules/autolrs_models.py",
        ("upper bound for lower", "mu - kappa * sigma", "mu + kappa * sigma"),
        (
            "asymptote with the wrong sign",
            "a * jnp.exp(-rate * horizon) + c",
            "a * jnp.exp(-rate * horizon) - c",
        ),
        tests=("tests/jaxtrain/schedules/test_autolrs.py",),
    ),
    *planted(
        "jaxtrain/schedules/autolrs_phases.py",
        (
            "probes as long as stages",
            "config.k * (taus // config.ratio) + taus",
            "config.k * taus + taus",
        ),
        ("data of a stage again", "again * int(taus[-1]) + step", "step"),
        tests=("tests/jaxtrain/schedules/test_autolrs.py",),
    ),
    *planted(
        "jaxtrain/nets/transformer.py",
        (
            "no residual",
            "x = x + self._dropped(self.attention_layer",
            "x = self._dropped(self.attention_layer",
        ),
        (
            "keys are not turned",
            "(rotate(q, angles), rotate(k, angles), v)",
            "(rotate(q, angles), k, v)",
        ),
        (
            "the gate is linear",
            'self.activation(dense(self.hidden, name="gate")(x)) * up',
            'dense(self.hidden, name="gate")(x) * self.activation(up)',
        ),
    ),
    *planted(
        "jaxtrain/nets/attention.py",
        ("not a rotation", "even * cos - odd * sin", "even * cos + odd * sin"),
        (
            "a token over another one's place",
            "jnp.where((place >= 0) & (place <= size - number), y, old)",
            "y",
        ),
        ("logits are not scaled", "q * q.shape[-1] ** -0.5, k)", "q, k)"),
        (
            "mask the wrong way",
            "jnp.where(mask, logits, jnp.finfo",
            "jnp.where(~mask, logits, jnp.finfo",
        ),
        (
            "own weight not in the total",
            ".sum(axis=-1, keepdims=True) + own_weight",
            ".sum(axis=-1, keepdims=True)",
        ),
    ),
    *planted(
        "jaxtrain/nets/norm.py",
        ("swapped average", "(1 - share) * old + share * new", "share * old + (1 - share) * new"),
        (
            "corrections swapped",
            "mixed(norm.momentum, norm.unbiased_stored)",
            "mixed(norm.momentum, norm.unbiased)",
        ),
        ("missing mask", "mask.astype(x.dtype)", "jnp.ones_like(mask, x.dtype)"),
        (
            "groups of positions",
            "groups.mean((1, 3), keepdims=True)",
            "groups.mean((1, 2), keepdims=True)",
        ),
    ),
    *planted(
        "jaxtrain/nets/resnet.py",
        ("all stages keep the size", "stride=1 if k == 0 else 2", "stride=1"),
        (
            "zeros on one side",
            "x[:, ::stride, ::stride], missing // 2",
            "x[:, ::stride, ::stride], 0",
        ),
        ("shortcut before the activation", '"conv_shortcut")(active)', '"conv_shortcut")(x)'),
        tests=(f"{NETS}/test_networks.py",),
    ),
    *planted(
        "jaxtrain/trees.py",
        ("swapped average", "decay * x + (1 - decay) * y", "(1 - decay) * x + decay * y"),
        ("halves swapped", "return selected, rest", "return rest, selected"),
    ),
    *planted(
        "jaxtrain/core.py",
        ("the first of the repeats", "lambda x: x[-1], outs", "lambda x: x[0], outs"),
        (
            "one key for all repeats",
            "core.update(state, batch, jax.random.fold_in(key, i))",
            "core.update(state, batch, key)",
        ),
        (
            "average of what was",
            "trees.ema(state.ema, params(inner), decay)",
            "trees.ema(state.ema, params(state.state), decay)",
        ),
    ),
    *planted(
        "jaxtrain/diffusion.py",
        ("guided away", "without + scale * (conditional", "without - scale * (conditional"),
        ("the last step keeps noise", "kept * x + (1 - kept) * clean", "kept * x + clean"),
        ("fresh noise is too small", "fresh * noise, None", "0.5 * fresh * noise, None"),
        (
            "the slope is not averaged",
            "x + (after - sigma) * slope / 2",
            "x + (after - sigma) * slope",
        ),
        ("levels are not cut off", "maxval=share(high)", "maxval=0.999"),
    ),
    *planted(
        "jaxtrain/optimizers.py",
        ("dropped clip", "if max_norm is not None:", "if False:"),
        ("steps are not gathered", "if accumulate > 1:", "if False:"),
    ),
    *planted(
        "jaxtrain/collectives.py",
        (
            "masked values count",
            "jnp.where(weights > 0, jnp.asarray(values, dtype), 0.0)",
            "jnp.asarray(values, dtype)",
        ),
        (
            "every shard writes to the front",
            "jax.lax.axis_index(axis_name) * size",
            "0 * jax.lax.axis_index(axis_name)",
        ),
        (
            "all shards share a key",
            "key if axis_name is None else jax.random.fold_in(key, jax.lax.axis_index(axis_name))",
            "key",
        ),
        (
            "a shared loss counts once per shard",
            "return mark_varying(result, axis_name)",
            "return result",
        ),
        (
            "a mean of means",
            "psum((jnp.sum(weights * selected), jnp.sum(weights)), axis_name)",
            "(jnp.sum(weights * selected), jnp.sum(weights))",
        ),
        tests=EIGHT,
    ),
    *planted(
        "jaxtrain/execution.py",
        ("a batch that does not divide", "        if size % num_shards:", "        if False:"),
        (
            "rows are dealt out in turn",
            "x.reshape(num_local, -1, *x.shape[1:])",
            "x.reshape(-1, num_local, *x.shape[1:]).swapaxes(0, 1)",
        ),
        ("a sharded state comes back whole", "(state_sharding, _report", "(sharding(P()), _report"),
        tests=EIGHT,
    ),
    *planted(
        "jaxtrain/meshes.py",
        ("devices that are not there", "if fixed > num_devices or (unknown", "if (unknown"),
        ("the shortest axis", "longest = max(axes, key", "longest = min(axes, key"),
        (
            "a batch on every device",
            "return P((DATA_AXIS, FSDP_AXIS)) if FSDP_AXIS in mesh.shape else SHARDED",
            "return SHARDED",
        ),
        ("every device holds all", "trees.num_bytes(part) // shards", "trees.num_bytes(part)"),
        tests=("tests/jaxtrain/test_meshes.py", "tests/jaxtrain/test_parallel.py"),
    ),
    *planted(
        "jaxtrain/nets/classifier.py",
        ("dropout while adapting", '"deterministic": True,', '"deterministic": False,'),
        (
            "statistics are not stored",
            "                model_state = {**model_state, **updated}",
            "                pass",
        ),
        ("rows are not masked", "with linen_choice(norm, mask):", "with linen_choice(norm, None):"),
        (
            "pixels are not centred",
            "return (inputs - constant(mean)) / constant(std)",
            "return inputs / constant(std)",
        ),
        tests=(
            f"{NETS}/test_classifier.py",
            f"{NETS}/test_networks.py",
            f"{NETS}/test_flax_norm.py",
        ),
    ),
    *planted(
        "jaxtrain/nets/torch_weights.py",
        ("in and out swapped", "array.transpose(2, 3, 1, 0)", "array.transpose(2, 3, 0, 1)"),
        (
            "arrays are left over",
            "for name in sorted(given.keys() - used)]",
            "for name in sorted(set())]",
        ),
        ("counters are weights", 'if not name.endswith("num_batches_tracked")', "if True"),
        ("a first part that is ours goes", "        and not (first(given) & first(wanted))\n", ""),
        tests=(f"{NETS}/test_networks.py", f"{NETS}/test_classifier.py"),
    ),
    *planted(
        "jaxtrain/nets/segmenter.py",
        (
            "levels are not joined",
            'resampled(x, "grow"), kept[level]]',
            'resampled(x, "grow"), 0 * kept[level]]',
        ),
        ("a sum over pixels", "reshape(len(each), -1).mean(-1)", "reshape(len(each), -1).sum(-1)"),
        (
            "pixels without a label count",
            "masked_mean(weights * each, labels >= 0, axis_name)",
            "masked_mean(weights * each, labels >= -1, axis_name)",
        ),
        (
            "columns for rows of a patch",
            '"b h w (p q k) -> b (h p) (w q) k"',
            '"b h w (q p k) -> b (h p) (w q) k"',
        ),
    ),
    *planted(
        "jaxtrain/nets/unet.py",
        (
            "sines for cosines",
            "[jnp.cos(angles), jnp.sin(angles)]",
            "[jnp.sin(angles), jnp.cos(angles)]",
        ),
        ("scale without its one", "* (1 + scale) + shift)", "* scale + shift)"),
        ("no residual", "        x = x + y\n", "        x = y\n"),
        (
            "no class is class 0",
            "jnp.full_like(times, self.num_classes, jnp.int32)",
            "jnp.zeros_like(times, jnp.int32)",
        ),
    ),
    *planted(
        "jaxtrain/nets/vit.py",
        ("the mean of the tokens", 'name="norm_last")(x)[:, 0]', 'name="norm_last")(x).mean(1)'),
        (
            "the token comes last",
            "[jnp.broadcast_to(token, (len(x), 1, self.width)), x]",
            "[x, jnp.broadcast_to(token, (len(x), 1, self.width))]",
        ),
        (
            "heads and channels swapped",
            '"b t (three h d) -> three b h t d"',
            '"b t (three d h) -> three b h t d"',
        ),
        ("no places", 'x = x + self.param("positions"', 'x = x + 0 * self.param("positions"'),
        tests=(f"{NETS}/test_networks.py",),
    ),
]

JAXTRAIN_HOST = [
    *planted(
        "jaxtrain/host/loop.py",
        ("windows begin anywhere", "(step // log_every + 1) * log_every", "step + log_every"),
        (
            "the last step for the mean",
            "np.mean(v, axis=0, dtype=float)",
            "np.asarray(v[-1], float)",
        ),
        ("no checkpoint at the end", "or step == num_steps or stopping:", "or stopping:"),
        (
            "one key for all evaluations",
            "jax.random.fold_in(key, 2), step)",
            "jax.random.fold_in(key, 2), 0)",
        ),
        ("time before a restart is lost", "clock.elapsed()\n", "0.0\n"),
    ),
    *planted(
        "jaxtrain/host/advance.py",
        ("data and update share a key", "for n in (0, 1))", "for n in (0, 0))"),
        ("rows beyond the window", "value[: stop - start]", "value"),
        (
            "one key for all host updates",
            "key_of(key, np.int32(i))",
            "key_of(key, np.int32(start))",
        ),
        ("rows at the wrong place", "b.at[i - start].set(m)", "b.at[i].set(m)"),
        tests=(f"{HOST}/test_advance.py", f"{HOST}/test_loop.py"),
    ),
    *planted(
        "jaxtrain/host/checkpoint.py",
        ("keeps the oldest", "set(steps[-self.keep :])", "set(steps[: self.keep])"),
        ("the worst is the best", "max(ranked)[1]", "min(ranked)[1]"),
        ("restores the oldest", "in reversed(_steps(directory))", "in _steps(directory)"),
        ("sign of the best", '-value if self.keep_best.startswith("-") else value', "value"),
    ),
    *planted(
        "jaxtrain/host/stored.py",
        ("changed metadata pass", 'if _crc32(payload) != item["crc32"]:', "if False:"),
        ("changed bytes pass", "if leaf != saved[name]:", "if False:"),
        ("a renamed step passes", 'if str(payload["step"]) != path.name:', "if False:"),
        tests=(f"{HOST}/test_checkpoint.py",),
    ),
    *planted(
        "jaxtrain/host/sweep.py",
        (
            "seeds do not matter",
            'jax.random.fold_in(key, values["seed"]) if "seed" in values else key',
            "key",
        ),
        (
            "values side by side",
            "zip(*itertools.product(*axes.values()), strict=True)",
            "zip(*zip(*axes.values()), strict=True)",
        ),
        ("every trial has its own data", "None if is_held(x) else 0, state", "0, state"),
        ("trials that do not divide", "if axes.num_trials % devices:", "if False:"),
    ),
    *planted(
        "jaxtrain/host/metrics.py",
        ("the last line is dropped", '0 < step >= record["step"]', '0 < step > record["step"]'),
        ("a torn last line is refused", "if torn and number < len(lines):", "if torn:"),
        ("infinity in the file", "float(array) if np.isfinite(array) else None", "float(array)"),
        ("infinity in the mean", "finite = array[np.isfinite(array)]", "finite = array"),
    ),
    *planted(
        "jaxtrain/host/settings.py",
        ("a share of nothing", "lambda x: 0 < x <= 1", "lambda x: 0 <= x <= 1"),
        ("the bound itself", "lambda x: x > low", "lambda x: x >= low"),
        ("a default loses its rule", "value = old._replace(default=value)", "pass"),
        ("late reads pass", "if self._closed and key not in self.keys:", "if False:"),
    ),
    *planted(
        "jaxtrain/host/restart.py",
        ("values of the run are lost", "set_value(config, key, value)", "pass"),
        (
            "the file of the run is not looked for",
            "named = about.config_file or",
            'named = "" or',
        ),
        (
            "a folder names Python of its own",
            'both = [f"configs/{Path(n).name}"',
            "both = [n",
        ),
    ),
    *planted(
        "jaxtrain/host/command.py",
        ("trials of the run are lost", " or about.sweep\n", "\n"),
        (
            "what the run had counts as changed",
            "about.config_file, flatten(plain(config))",
            "about.config_file, {}",
        ),
    ),
    *planted(
        "experiments/lpn/terminal.py",
        ("colours in files", "return stream.isatty() and not none", "return not none"),
        ("a wish for no colours", 'os.environ.get("NO_COLOR") or', "False or"),
        ("a cell colours the next", "{value} \\x1b[0m", "{value} "),
    ),
    *planted(
        "jaxtrain/host/experiment.py",
        ("evaluation trains", 'training.trains and mode != "evaluate"', "training.trains"),
        ("evaluation saves", "training.save is not None and trains", "training.save is not None"),
        ("training evaluates", 'if mode == "train":', "if False:"),
        (
            "evaluations of nothing pass",
            'key == "eval_every" and training.watch is None',
            "False",
        ),
    ),
    *planted(
        "jaxtrain/host/experiment.py",
        (
            "trials know nothing of their shards",
            "sweep.overlay(config, values), axis_name)",
            "sweep.overlay(config, values), None)",
        ),
        tests=(f"{HOST}/test_sweep.py",),
    ),
    *planted(
        "jaxtrain/host/begin.py",
        (
            "a resumed run begins at step 0",
            "Restored(restored.tree, restored.step, {})",
            "Restored(restored.tree, 0, {})",
        ),
        ("given parameters are not used", "state._replace(params=params)", "state"),
    ),
    *planted(
        "jaxtrain/host/data.py",
        ("every epoch in one order", "default_rng([seed, epoch])", "default_rng([seed, 0])"),
        ("rows in order", "        if self.shuffle:", "        if False:"),
        ("steps begin at zero after a restart", "        step = start\n", "        step = 0\n"),
    ),
    *planted(
        "jaxtrain/host/checks.py",
        ("windows of any length", "if length % log_every:", "if False:"),
        ("a trial that fails ends the sweep", ".any(axis=1)", ".all(axis=1)"),
        (
            "one step early",
            "step = begin + int(np.argmin(good)) + 1",
            "step = begin + int(np.argmin(good))",
        ),
        ("NaN is saved", "and (leaf := _first_nan(state)):", "and (leaf := None):"),
        ("any state fits", "if size > memory:", "if False:"),
        (
            "no evaluation to rank by",
            "if not evaluation or checkpoint % evaluation:",
            "if not evaluation:",
        ),
        ("a state may change its kind", "    if found:\n", "    if False:\n"),
        tests=(
            f"{HOST}/test_loop.py",
            f"{HOST}/test_begin.py",
            f"{HOST}/test_experiment.py",
            f"{HOST}/test_advance.py",
        ),
    ),
    *planted(
        "jaxtrain/host/cli.py",
        ("intervals of any length", "if period % log_every:", "if False:"),
        ("keys without effect", 'if key not in read and not key.startswith("mesh."):', "if False:"),
        ("batches that do not divide", "if batch_size % devices:", "if False:"),
        ("a stopped run is done", "        return 3", "        return 0"),
        ("an evaluation overwrites the config", "if not (evaluated and", "if not (False and"),
        ("flags it does not have", "flag in without:", "False:"),
    ),
    *planted(
        "jaxtrain/host/clock.py",
        ("each start from zero", "time.perf_counter() - elapsed_before", "time.perf_counter()"),
        (
            "the evaluation that compiled",
            "min(self._eval_seconds or seconds, seconds)",
            "max(self._eval_seconds or seconds, seconds)",
        ),
        ("evaluations take no time", "evaluations * (self._eval_seconds or 0.0)", "0.0"),
        (
            "compilation is speed",
            "time.perf_counter() - self.compile_seconds - began",
            "time.perf_counter() - began",
        ),
        tests=(f"{HOST}/test_clock.py", f"{HOST}/test_loop.py"),
    ),
    *planted(
        "jaxtrain/host/traffic.py",
        ("gradients are summed once", "(times, times * size / fsdp)", "(times, size / fsdp)"),
        ("one way of two", '(2 if kind == "all-reduce" else 1) *', "1 *"),
        ("the last of a kind", "found[kind] = (count + 1, size)", "found[kind] = (1, size)"),
        tests=(
            f"{HOST}/test_traffic.py",
            f"{HOST}/test_chips.py",
            "tests/experiments/test_plan.py",
        ),
    ),
]

DATA = [
    *planted(
        "experiments/data/images/feature_classes.py",
        ("JSON in text is not looked into", "yield from _named(json.loads(node))", "pass"),
        (
            "one file is not looked into",
            'for name in ("features.json", "dataset_info.json"):',
            'for name in ("features.json",):',
        ),
    ),
    *planted(
        "experiments/data/images/checked.py",
        ("negative labels", "(labels == np.floor(labels)) & (labels >= 0)", "(labels == labels)"),
        ("channels first", "if shape[1] in (1, 3):", "if False:"),
        ("16 bits are cut off", "+ 128) // 257)", ") >> 8)"),
    ),
    *planted(
        "experiments/data/images/classes.py",
        ("numbers sorted as text", "sorted(names, key=int)", "sorted(names)"),
        ("hidden folders are classes", 'path.name.startswith(".") or', "False or"),
        ("any number of classes", "and len(own) != num_classes:", "and False:"),
    ),
    *planted(
        "experiments/data/arc/parsing.py",
        ("the last of two wins", "if value != found[key])", "if False)"),
        (
            "any other key hides an answer",
            "if not any(isinstance(x, list) for x in others):",
            "if 1:",
        ),
    ),
    *planted(
        "experiments/lpn/task_sets.py",
        (
            "a limit forgets what is left out",
            "list(every.values())[: number or None]",
            "list(every.values())",
        ),
        ("any shared pair", "complete <= of and", "complete & of and"),
    ),
    *planted(
        "jaxtrain/host/gguf_header.py",
        ("lists of any length", "if self._values > MOST_VALUES:", "if False:"),
        ("texts end where they like", "if count * width > rest:", "if count > 2**64:"),
    ),
    *planted(
        "jaxtrain/known_numbers.py",
        ("nothing is refused", "if known(value) and not good(value):", "if False:"),
        (
            "traced numbers are refused",
            "return isinstance(value, (int, float",
            "return value is not None or isinstance(value, (int, float",
        ),
    ),
    *planted(
        "jaxtrain/replacing.py",
        ("written in place", "yield part", "yield path"),
        ("half a file stays", "part.unlink(missing_ok=True)", "pass"),
    ),
    *planted(
        "jaxtrain/npz.py",
        ("sizes are believed", "!= rest:", "< 0:"),
        ("bombs are opened", "if size > LARGE and", "if False and"),
        tests=("tests/jaxtrain/host/test_arrays.py",),
    ),
    *planted(
        "jaxtrain/host/loop.py",
        ("old returns are averaged", "rows[name] * rows[number]", "rows[name]"),
        ("episodes of no window", "if {name, number} <= rows.keys():", "if False:"),
    ),
    *planted(
        "jaxtrain/host/loop.py",
        (
            "a mismatch is averaged",
            "np.max(rows[name], axis=0)",
            "np.mean(rows[name], axis=0)",
        ),
        tests=(f"{HOST}/test_loop_largest.py",),
    ),
    *planted(
        "jaxtrain/host/loop.py",
        ("nothing stops a run", "                    check(rows)\n", "                    pass\n"),
        tests=(f"{HOST}/test_experiment.py",),
    ),
]

JAXTTA_REASONING = [
    *planted(
        "jaxtta/search/budget.py",
        ("an end is final", "(early | (used >= budget))", "(~early & (used >= budget))"),
        ("a second end is not", "decoding.done | finished", "decoding.done"),
        ("triggers to the very end", "latest = cap - cap // 8", "latest = cap"),
    ),
    *planted(
        "jaxtta/search/selection.py",
        (
            "no answer is an answer",
            "counts = answers >= 0 if valid is None",
            "counts = answers >= -9 if valid is None",
        ),
        ("a subset draws twice", "among = rank < size ", "among = rank <= size "),
        (
            "the worst of a subset",
            "jnp.argsort(-scores, axis=-1, stable=True)\n    ranked",
            "jnp.argsort(scores, axis=-1, stable=True)\n    ranked",
        ),
        (
            "subsets with replacement",
            "jnp.maximum(1 - k / i, 0)",
            "jnp.maximum(1 - k / num_samples, 0)",
        ),
    ),
    *planted(
        "jaxtta/self_evaluation/calibration.py",
        ("critique of all answers", "_ratio(fixed, 1 - first)", "_ratio(fixed, 1.0)"),
        (
            "covariance counts once",
            "spread**2 - 2 * spread * deviation",
            "spread**2 - spread * deviation",
        ),
    ),
    *planted(
        "jaxtta/self_evaluation/token_judges.py",
        (
            "no other option",
            "token_share(log_probs, true, [*true, *false])",
            "token_mass(log_probs, true)",
        ),
        ("one option only", "total(chosen) - total(among)", "total(chosen)"),
    ),
    *planted(
        "jaxtta/self_evaluation/consistency.py",
        ("a sample agrees with itself", "jnp.maximum(_votes(answers) - 1, 0)", "_votes(answers)"),
        ("verdicts without a vote", "kept | ~kept.any(-1, keepdims=True)", "kept"),
    ),
]

JAXRL_LM = [
    *planted(
        "jaxrl/lm/sharpening.py",
        ("the least probable is imitated", "compared.argmax(1)", "compared.argmin(1)"),
        (
            "all samples are compared",
            "jnp.arange(base.shape[1]) < num_samples",
            "jnp.arange(base.shape[1]) < 9999",
        ),
        (
            "the base follows",
            "LearnerState(*carry, state.reference)",
            "LearnerState(*carry, carry[0])",
        ),
    ),
    *planted(
        "experiments/lm/by_setting.py",
        ("all trials have one seed", "trial[1].get(SEED_AXIS, 0)", "0"),
        ("problems are not drawn", "rng.integers(problems, size=problems)", "np.arange(problems)"),
    ),
    *planted(
        "experiments/lm/coverage.py",
        ("the test is wrong, too", "wrong &= jnp.arange(len(answer)) < number", "wrong &= True"),
        ("the same rows at every place", "jax.random.fold_in(key, place), (), 0", "key, (), 0"),
        ("one sample whatever k is", "-jnp.expm1(k * missed)", "-jnp.expm1(missed)"),
    ),
    *planted(
        "experiments/lm/planted_experts.py",
        ("experts that never are alike", "+ options.spread * (rates", "+ 1.0 * (rates"),
        ("ends may be written", "symbols.ids(CONTENT)].set", 'symbols.ids(CONTENT + "$")].set'),
        (
            "what is copied is called verified",
            'zip(("base", "copied", "verified"), each',
            'zip(("base", "verified", "copied"), each',
        ),
        (
            "the gap is of the base",
            'found[f"verified_{horizon}"] - found[f"copied_{horizon}"]',
            'found[f"verified_{horizon}"] - found[f"base_{horizon}"]',
        ),
        (
            "all experts alike in the law",
            "found = config.experts, rates_of(config.experts), {}",
            "found = config.experts, 0 * rates_of(config.experts) + 0.4, {}",
        ),
        ("sigma is squared", "jnp.sqrt(jnp.maximum(law.variance, 0))", "law.variance"),
        (
            "experts of the config only",
            "jax.random.choice(keys[1], rates_of(options))",
            "jax.random.choice(keys[1], jnp.asarray(options.rates))",
        ),
        (
            "traces of another problem",
            "jnp.ones(horizon, bool)))",
            "jnp.ones(horizon, bool))._replace(tokens=trace[::-1]))",
        ),
        (
            "earnings change places",
            'for x in ("copied", "verified", "gap")',
            'for x in ("verified", "copied", "gap")',
        ),
    ),
    *planted(
        "experiments/lm/demonstrations.py",
        ("prompts carry a loss", "[jnp.zeros_like(prompt.valid), ", "[prompt.valid, "),
        ("no published shapes", "    if options.published:", "    if False:"),
    ),
    *planted(
        "experiments/lm/self_reward_report.py",
        ("2 comes after 16", "int(name[len(text) :] or 0)", "-int(name[len(text) :] or 0)"),
        ("all settings at once", "found[name][chosen]", "found[name]"),
    ),
    *planted(
        "experiments/lm_reward.py",
        ("more samples than are drawn", "options.num_samples > options.pool", "False"),
        ("patterns longer than texts", "experts.length > min(experts.horizons)", "False"),
        tests=("tests/experiments/test_configs.py",),
    ),
    *planted(
        "experiments/lm/self_reward.py",
        ("the law of one sample", "(was, config.sharpening.num_samples)", "(was, 1)"),
        ("the best of another prompt", "was.argmax(1)[:, None]", "was.argmin(1)[:, None]"),
        tests=("tests/experiments/test_lm_reward.py",),
    ),
    *planted(
        "experiments/lm/self_reward.py",
        (
            "mistakes are always the same",
            "jnp.where(same, jax.random.key(0), key_which)",
            "jax.random.key(0)",
        ),
        ("no mistakes", "bernoulli(key_wrong, options.mistakes)", "bernoulli(key_wrong, 0.0)"),
        (
            "before and after change places",
            "for params in (state.reference, state.params)",
            "for params in (state.params, state.reference)",
        ),
        (
            "the least probable is chosen",
            "best_at_k(own, right, k) for k in sizes",
            "best_at_k(-own, right, k) for k in sizes",
        ),
        (
            "votes are of one answer",
            "majority(answers, valid), right",
            "majority(0 * answers, valid), right",
        ),
        (
            "greedy answers of the sharpened policy twice",
            '"greedy_before": one(state.reference)',
            '"greedy_before": one(state.params)',
        ),
        (
            "a sample is of one token",
            "in_groups(text.logp.sum(-1))",
            "in_groups(text.logp.max(-1))",
        ),
    ),
    *planted(
        "jaxrl/lm/learners.py",
        (
            "weights are forgotten",
            "objectives.coverage_loss(log_prob, mask, num_samples) * weight",
            "objectives.coverage_loss(log_prob, mask, num_samples)",
        ),
        (
            "rejected and chosen change places",
            "chosen, rejected = jnp.split",
            "rejected, chosen = jnp.split",
        ),
        (
            "the better response is not learned",
            "supervised_weight * better",
            "0 * supervised_weight * better",
        ),
        ("aggregation is forgotten", 'aggregation or "token_mean"', '"token_mean"'),
        (
            "sums instead of means",
            "objectives.mean_log_prob if means",
            "objectives.sequence_log_prob if means",
        ),
        (
            "labels are rounded",
            "heads.soft_label_loss(log_odds, label, mask",
            "heads.soft_label_loss(log_odds, jnp.round(label), mask",
        ),
        ("the norm of the step", "trees.global_norm(grads)", "trees.global_norm(updates)"),
        (
            "the margin is of the better response",
            '"margin": margin.mean()',
            '"margin": better.mean()',
        ),
    ),
    *planted(
        "jaxrl/lm/policy_gradient.py",
        (
            "ratios over the whole vocabulary",
            "gap = jnp.where(mask, now.sampled - samples.text.sampled, 0)",
            "gap = jnp.where(mask, now.logp - samples.text.sampled, 0)",
        ),
        (
            "the loss is of the whole vocabulary",
            "objectives.surrogate(now.sampled,",
            "objectives.surrogate(now.logp,",
        ),
        (
            "the reference stands still",
            "trees.ema(state.reference, params, divergence.decay)",
            "state.reference",
        ),
        (
            "turns are compared with ones that were not taken",
            "group_advantage(paid, baseline, taken)",
            "group_advantage(paid, baseline)",
        ),
        (
            "turns are compared with other turns",
            "advantage = of_turns(advantage.reshape(-1, num_turns), text.turn)",
            "advantage = of_turns(advantage.reshape(-1, num_turns)[:, ::-1], text.turn)",
        ),
        (
            "the loss pays in the reward too",
            'if divergence is None or divergence.place != "reward":',
            "if divergence is None:",
        ),
        ("one trial stops all", "min(float(x.min())", "min(float(x.max())"),
        ("one learner stops all", "min(float(x.min()) for", "max(float(x.min()) for"),
        (
            "samples are used once",
            "scan(step, state[:2], None, num_steps)",
            "scan(step, state[:2], None, 1)",
        ),
        ("ratios are free", "                clip=clip,", "                clip=None,"),
        ("the entropy is free", "entropy_weight=entropy_weight,", "entropy_weight=0.0,"),
        (
            "tokens weigh the same",
            "objectives.aggregate(each, mask, aggregation,",
            'objectives.aggregate(each, mask, "token_mean",',
        ),
    ),
    *planted(
        "jaxrl/lm/samples.py",
        ("the last problem is taken", "jnp.argmax(differs, axis=1", "jnp.argmin(differs, axis=1"),
        (
            "only the first turn differs",
            "informative(reward, taken).any(axis=-1)",
            "informative(reward, taken)[..., 0]",
        ),
        ("turns that were not taken differ", "informative(reward, taken)", "informative(reward)"),
    ),
    *planted(
        "jaxrl/lm/samples.py",
        (
            "turns that were not taken are paid",
            "jnp.where(there, each_turn(problems, verdict, text.tokens, own), 0)",
            "each_turn(problems, verdict, text.tokens, own)",
        ),
        tests=("tests/jaxrl/lm/test_policy_gradient.py",),
    ),
    *planted(
        "jaxrl/lm/ppo.py",
        ("a return without its value", "target = advantage + before", "target = advantage"),
        ("the reference is free", "paid = paid - charged(divergence, kl)", "paid = paid + 0 * kl"),
        (
            "samples are used once",
            "scan(step, state[:2], None, num_steps)",
            "scan(step, state[:2], None, 1)",
        ),
        ("ratios are free", "                clip=clip,", "                clip=None,"),
        ("the entropy is free", "entropy_weight=entropy_weight,", "entropy_weight=0.0,"),
        (
            "values are free",
            "value_loss(value, before, target, value_clip)",
            "value_loss(value, before, target)",
        ),
        ("a weighted loss is reported", '"value_loss": of_critic', '"value_loss": 2 * of_critic'),
    ),
    *planted(
        "jaxrl/lm/turns.py",
        ("rows that are told nothing go on", "going &= valid.any(axis=1)", "going &= going"),
        ("every token of a turn is paid", "slot == last,", "own,"),
        ("a restart begins too early", "number <= kept, given", "number < kept, given"),
    ),
    *planted(
        "jaxtrain/lm/heads.py",
        (
            "masked places count",
            "masked_mean(jax.nn.softplus(logit) - label * logit, mask,",
            "masked_mean(jax.nn.softplus(logit) - label * logit, mask | True,",
        ),
        ("labels are hard", "- label * logit", "- (label > 0.5) * logit"),
    ),
    *planted(
        "jaxrl/lm/tasks/temporal.py",
        (
            "the second step is on its own",
            "known = jnp.ones(STEPS, bool).at[1].set(step.ok[0] | ~sums)",
            "known = jnp.ones(STEPS, bool)",
        ),
        ("order by the last", "(rank == problem.left - 1)", "(rank == 4 - problem.left)"),
    ),
    *planted(
        "jaxrl/lm/tasks/rooms.py",
        ("doors open one way", "(doors | doors.T) & ~", "doors & ~"),
        ("any room is the goal", "& (last == problem.goal)", ""),
    ),
    *planted(
        "jaxrl/lm/tasks/facts.py",
        ("any relation", "known & readable & named & exists", "known & readable & exists"),
        (
            "one known fact is enough",
            "return entities, known.all()",
            "return entities, known.any()",
        ),
    ),
    *planted(
        "jaxrl/lm/tasks/calculator.py",
        (
            "the first call is answered",
            "len(tokens) - 1 - jnp.argmax(jnp.flip(opens))",
            "jnp.argmax(opens)",
        ),
        ("results of any length", "good = at.end() & (result >= 0)", "good = at.end()"),
    ),
    *planted(
        "jaxrl/lm/tasks/unit_tests.py",
        ("unreadable tests cover", "((side == s) & tests.ok[:, None])", "((side == s) & True)"),
        ("large inputs", "at.end() & (a <= LARGEST_INPUT)", "at.end()"),
        (
            "a mutant is killed by what it gives",
            "!= tests.expected[None]) & tests.ok[None]",
            "!= tests.expected[None])",
        ),
    ),
    *planted(
        "jaxrl/lm/tasks/symbols.py",
        ("what follows the end is read", "(stop & ~after_end).sum()", "stop.sum()"),
        ("a line may go on", "self.ok & (self.symbol() == NOTHING)", "self.ok"),
        ("long numbers overflow", "(count >= 1) & (count <= MAX_DIGITS)", "count >= 1"),
    ),
    *planted(
        "jaxrl/lm/tasks/task.py",
        ("missing steps are right", "jnp.where(there, line_ok & due, ~due)", "line_ok | ~there"),
        ("the last error", "jnp.argmin(step_ok)", "len(step_ok) - 1 - jnp.argmin(step_ok[::-1])"),
        tests=(f"{TASKS}/test_chained.py",),
    ),
    *planted(
        "jaxrl/lm/tasks/verifiers.py",
        ("later steps are judged alone", "jnp.cumprod(verdict", "(verdict"),
        (
            "all verdicts are turned at once",
            "flip_rate, (1 + len(right.steps),))",
            "flip_rate, (1,)).repeat(9)",
        ),
    ),
    *planted(
        "jaxrl/lm/tasks/chained.py",
        ("any number may begin a step", " & (step.left == before)", ""),
        ("an unreadable step is forgotten", "ok = known & step.ok", "ok = step.ok"),
    ),
    *planted(
        "jaxrl/lm/tasks/countdown.py",
        ("a number is used twice", "& (jnp.arange(num_numbers) != first)", ""),
        (
            "differences without a sign",
            "            left - right,",
            "            abs(left - right),",
        ),
        ("ones make too much", "set(target - steps)", "set(target)"),
        ("any end is the target", "(value[jnp.argmax(there)] == problem.target)", "there.any()"),
    ),
    *planted(
        "jaxrl/lm/tasks/words.py",
        ("names do not matter", "ok=begin.ok & named", "ok=begin.ok"),
        ("told in order", "jnp.argsort(share[:, 6])", "jnp.arange(total)[::-1] * 0"),
    ),
    *planted(
        "jaxrl/lm/tasks/tables.py",
        ("ties count twice", "set(kept[:-1] - kept[1:])", "set(kept[:-1])"),
        ("the bound of the first draw", "mu / num_draws[:, None]", "mu / num_draws[:1, None]"),
        (
            "the divergence with the wrong sign",
            "(base - beta * (log_prob - base))",
            "(base + beta * (log_prob - base))",
        ),
    ),
    *planted(
        "jaxrl/lm/tasks/planted.py",
        (
            "a wrong symbol never begins anew",
            "again = jnp.where(state > 0, other, 0.0)",
            "again = 0 * other + 0.0 * state",
        ),
        ("variance of one token only", "spread + table @ variance", "spread"),
        ("rates as they were", "posterior = weights * accepted", "posterior = weights"),
    ),
    *planted(
        "jaxrl/lm/objectives.py",
        (
            "empty rows count",
            "masked_mean(means, mask.any(-1), axis_name)",
            "masked_mean(means, mask.any(-1) | True, axis_name)",
        ),
        (
            "masked values count",
            "    values = jnp.where(mask, values, 0)\n",
            "    values = jnp.where(True, values, 0)\n",
        ),
        ("one bound for both clips", "1 + clip[1])", "1 + clip[0])"),
        ("k3 without its control variate", "ratio_of(u) - u - 1", "ratio_of(u) - 1"),
        ("one sample less", "(n - 1) * missed - found", "n * missed - found"),
    ),
    *planted(
        "jaxrl/lm/advantages.py",
        (
            "rounding is a signal",
            "jnp.where(taken & informative(reward, taken)[..., None], found, 0)",
            "jnp.where(taken, found, 0)",
        ),
        (
            "compared with turns that were not taken",
            "total = lambda x: jnp.where(taken, x, 0).sum(",
            "total = lambda x: jnp.where(True, x, 0).sum(",
        ),
        (
            "a right answer loses what it had no turn to keep",
            ".add(jnp.where(taken[..., 1:], bonus, 0))",
            ".add(bonus)",
        ),
        (
            "forced tokens take time",
            "jnp.argsort(~mask, axis=-1",
            "jnp.argsort(mask | True, axis=-1",
        ),
    ),
    *planted(
        "jaxrl/lm/preferences.py",
        ("the reference is forgotten", "chosen - rejected - constant", "chosen - rejected"),
        ("odds of the rejected only", "(log_not(chosen) - log_not(rejected))", "log_not(rejected)"),
    ),
]

LM_COMMANDS = [
    *planted(
        "experiments/lm_judges.py",
        (
            "another system runs",
            '"critique": correcting.training',
            '"critique": judging.training',
        ),
        ("any schedule", "    schedules.check_own_batches(config)", "    pass"),
    ),
    *planted(
        "experiments/lm/answers.py",
        ("wrong hints are right", "(lines.result + 1) % recipe.modulus", "lines.result"),
        ("hints go on", "jnp.minimum(number, question.depth)", "number"),
        ("all operators", "[question.chain.op % len(operators)]", "[question.chain.op % 1]"),
    ),
    *planted(
        "experiments/lm/knowing.py",
        (
            "known before the question",
            "jnp.where(text.valid, slot, -1).argmax(axis=1)",
            "jnp.where(text.valid, slot, -1).argmin(axis=1)",
        ),
        (
            "labels stay",
            "pool.correct[jnp.where(swap, stranger, question)]",
            "pool.correct[question]",
        ),
        (
            "the first token knows",
            "slot == jnp.where(text.valid, slot, -1).max()",
            "slot == jnp.where(text.valid, slot, 999).min()",
        ),
        (
            "right lines are wrong ones",
            "[(n, w) for w in (False, True) for n",
            "[(n, w) for w in (True, False) for n",
        ),
        (
            "against one line less",
            "known_after[number + n] - known_after[0]",
            "known_after[number + n] - known_after[n]",
        ),
        (
            "own questions across",
            '"across": examined(params, keys[1], jnp.asarray(ACROSS))',
            '"across": examined(params, keys[1], jnp.asarray(OWN))',
        ),
        (
            "questions by hints",
            'correct.pop("hints").mean(-1).reshape(len(hints), -1)',
            'correct.pop("hints").mean(-1).reshape(-1, len(hints)).T',
        ),
    ),
    *planted(
        "experiments/lm/judging.py",
        (
            "no is yes",
            "p_true(logits, options[:1], options[1:])",
            "p_true(logits, options[1:], options[:1])",
        ),
        ("judged before the request", "hidden[:, -1])", "hidden[:, -2])"),
        (
            "verdicts on other questions",
            ".reshape(questions, samples)",
            ".reshape(samples, questions).T",
        ),
        ("the answer is learned", "== len(asked.tokens)", "<= len(asked.tokens)"),
        ("bare answers are told", "only_if(form == 2, told)", "only_if(form > 0, told)"),
        (
            "the base is judged in the place of the trained",
            '{"base": [before]} | {',
            '{"base": every} | {',
        ),
        (
            "the answer itself is told",
            "np.arange(size[1])[:, None] + 1 + np.arange(told)",
            "np.arange(size[1])[:, None] + np.arange(told)",
        ),
        (
            "strangers are the same question",
            "np.roll(others, 1, axis=0)",
            "np.roll(others, 1, axis=1)",
        ),
        (
            "products are sums",
            "examined(params, keys[1], jnp.asarray(ACROSS))",
            "examined(params, keys[1], jnp.asarray(OWN))",
        ),
        (
            "gains are losses",
            'difference(said[form], said["answer"], right)',
            'difference(said["answer"], said[form], right)',
        ),
        ("all trials are the first", "[every[t] for t in members]", "[every[0] for t in members]"),
    ),
    *planted(
        "experiments/lm/correcting.py",
        ("right attempts are wrong", "pool.correct == wants_right", "pool.correct != wants_right"),
        ("first attempts are learned", ">= len(before.tokens)", ">= 0"),
        ("all requests are the first", "exam.second[..., i]", "exam.second[..., 0]"),
        ("the base is the trained", '{"base": measured([before])}', '{"base": measured(exams)}'),
        (
            "nothing is copied",
            'of_revision("copied", first, first)',
            'of_revision("copied", first, ~first)',
        ),
    ),
    *planted(
        "experiments/lm/judge_report.py",
        ("ties count whole", "np.cumsum(no) - no / 2", "np.cumsum(no)"),
        ("right answers of all", "resampled(kept, was)", "resampled(kept / samples)"),
    ),
    *planted(
        "experiments/lm/conversations.py",
        (
            "right lines are put right",
            "old_result == right, kept, fixed",
            "old_result == right, fixed, kept",
        ),
        (
            "lines that are cut off stand",
            "(shown == whole.valid)[",
            "(whole.valid == whole.valid)[",
        ),
        ("every token is learned", "mixed.valid & ~is_filler", "mixed.valid"),
        ("the first attempt counts", "last = jnp.max(", "last = jnp.min("),
    ),
    *planted(
        "experiments/lm/bases.py",
        ("any shapes will do", "if shapes != {", "if not {"),
        ("lists stay lists", "tuple(x) if isinstance(x, list) else x", "x"),
    ),
    *planted(
        "experiments/tta_dense.py",
        ("rows are adapted again", "if not file.is_file():", "if True:"),
        (
            "the other sign",
            'of(first, "right") - of(second, "right")',
            'of(second, "right") - of(first, "right")',
        ),
        ("some masks may be missing", "if not value)", "if value)"),
    ),
    *planted(
        "experiments/dense/figures.py",
        ("none has the first colour", "np.where(labels < 0, 0, 1 +", "np.where(labels < 0, 1, 1 +"),
        ("two classes of one colour", "1 + labels % len(PALETTE)", "1 + labels % 3"),
    ),
    *planted(
        "experiments/data/images/scenes.py",
        ("dusk is day", "    if dusk:\n", "    if False:\n"),
        ("all streets are the same", "default_rng([seed, dusk])", "default_rng([0, dusk])"),
    ),
    *planted(
        "experiments/dense/rows.py",
        (
            "random steps of any length",
            "x + way * jnp.linalg.norm(y - x) / jnp.linalg.norm(way)",
            "x + way",
        ),
        (
            "no longer than the others",
            "row(taught(ahead + 1), 1, ahead + 1)",
            "row(taught(ahead + 1), 1, 1)",
        ),
    ),
    *planted(
        "experiments/dense/training.py",
        ("batches to come come now", "(key, i + 1 + j) for j", "(key, i + j) for j"),
        (
            "padding is scored",
            "np.concatenate(parts)[: len(given.images)]",
            "np.concatenate(parts)[-len(given.images) :]",
        ),
        (
            "classes that are not there count",
            "there = confusion.sum(1) > 0",
            "there = confusion.sum(1) >= 0",
        ),
        (
            "pixels without a class are right",
            "((found == given.labels) & known)",
            "((found == given.labels) | ~known)",
        ),
    ),
    *planted(
        "experiments/data/images/masks.py",
        ("void is a class", "labels[labels == void] = -1", "labels[labels == void] = 0"),
        ("masks between two classes", "Image.Resampling.NEAREST", "Image.Resampling.BILINEAR"),
        (
            "any number is a class",
            "(labels != void) & (labels >= num_classes)",
            "(labels != void) & (labels < 0)",
        ),
    ),
    *planted(
        "jaxtrain/host/bootstrap.py",
        ("seeds are certain", "((drawn[0] @ x) * drawn[1])", "((1 + 0 * drawn[0] @ x) * drawn[1])"),
        ("a ratio of means", "values.sum() / counts.sum()", "values.mean()"),
    ),
    *planted(
        "experiments/lm/abilities.py",
        (
            "wrong answers are kept",
            "(second & exam.first).sum(-1)",
            "(second & ~exam.first).sum(-1)",
        ),
        (
            "all depths together",
            "resampled(exam.first.mean(-1) * asked, asked)",
            "resampled(exam.first.mean(-1))",
        ),
        ("samples are greedy", "jnp.tile(jnp.arange(each) > 0,", "jnp.tile(jnp.arange(each) < 0,"),
        (
            "answers to one request only",
            "jnp.tile(jnp.asarray(symbols.ids(INSTRUCTIONS)), rows)",
            "jnp.tile(jnp.asarray(symbols.ids(3 * INSTRUCTIONS[:1])), rows)",
        ),
        ("false is true", "options[:1], options[1:])", "options[1:], options[:1])"),
    ),
    *planted(
        "experiments/lm/deepening.py",
        ("the control reconsiders", "main._replace(trigger=FILLER)", "main"),
        (
            "plain samples are cheaper",
            "plain.tokens >= one.tokens[0]",
            "plain.tokens <= one.tokens[0]",
        ),
        ("the other way round", "right[a] - right[b]", "right[b] - right[a]"),
    ),
    *planted(
        "experiments/lm_base.py",
        ("any shares", "if not np.isclose(sum(recipe.requests), 1):", "if False:"),
        ("fewer numbers than requests", "!= len(abilities.NAMES)", "> len(abilities.NAMES)"),
    ),
    *planted(
        "experiments/lm_search.py",
        ("everything is sampled again", "if not file.is_file():", "if True:"),
        (
            "plain samples are as few",
            "options.samples if rule.budgets else options.plain_samples",
            "options.samples",
        ),
    ),
]

BOUNDARIES = [
    *planted(
        "jaxtta/check_apply.py",
        (
            "padding is not tried",
            "if _differ(logits(x, 1.0, rows)[:-1], logits(other, 1.0, rows)[:-1]):",
            "if False:",
        ),
        (
            "a mixture may be none",
            "if _differ(stored, batch) and not (_differ(half, batch) and _differ(half, stored)):",
            "if False:",
        ),
        ("all methods take pixels", "if len(shape) == 4 and not dense:", "if False:"),
        (
            "any number of classes",
            "if num_classes is not None and shape[-1] != num_classes:",
            "if False:",
        ),
    ),
    *planted(
        "jaxtta/selection.py",
        ("statistics are adapted", "leaf not in _STATISTICS and any(", "any("),
        (
            "any scale beside a shift",
            "return all(kinds) and len(set(own.values())) == 1 and",
            "return all(kinds) and",
        ),
    ),
    *planted(
        "jaxtta/images/source_features.py",
        ("networks without features pass", "if isinstance(found.features, tuple):", "if False:"),
        (
            "rows of the batches in turn",
            "lambda x: x.reshape(-1, *x.shape[2:])",
            "lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])",
        ),
        tests=("tests/jaxtta/images/test_adanpc.py",),
    ),
    *planted(
        "jaxtta/images/label_shift.py",
        (
            "the source's prior for every target",
            "target_prior(start.prior, exponent)",
            "start.prior",
        ),
        (
            "the given first layer is not used",
            "identity(prior, head, drawn.weight)",
            "identity(prior, head, 0 * drawn.weight)",
        ),
    ),
    *planted(
        "jaxtta/images/sda.py",
        ("one key for both draws", "return of(first), of(second)", "return of(first), of(first)"),
        ("labels of other images", '"labels": labels[index]}', '"labels": labels[: len(index)]}'),
    ),
    *planted(
        "jaxrl/meta/evolution.py",
        (
            "a failed population has a fitness",
            "jnp.where(count > 0, total / jnp.maximum(count, 1.0), jnp.nan)",
            "total / jnp.maximum(count, 1.0)",
        ),
    ),
    *planted(
        "jaxrl/networks.py",
        ("actions are certain", "size, activation, 0.01)", "size, activation, 10.0)"),
        ("a deviation of e", "jnp.zeros(action.shape)", "jnp.ones(action.shape)"),
    ),
    *planted(
        "jaxrl/envs/check_env.py",
        ("shapes may change", "if x.shape != y.shape or not (", "if not ("),
        ("flags may be missing", "if flag is None:", "if False:"),
    ),
    *planted(
        "jaxrl/envs/adapters.py",
        ("wrappers pass", "if any(word in name for word in _OWN_EPISODES):", "if False:"),
        ("a step too many", "late = time >= params.max_steps", "late = time > params.max_steps"),
        tests=("tests/jaxrl/envs/test_check_env.py", "tests/jaxrl/envs/test_control.py"),
    ),
    *planted(
        "jaxtta/lpn/config.py",
        (
            "everything is dropped out",
            "if not 0 <= self.dropout < 1:",
            "if not 0 <= self.dropout <= 1:",
        ),
        ("heads of any size suit cuDNN", "all(n <= 128 and n % 8 == 0 for n in sizes)", "True"),
    ),
    *planted(
        "jaxtta/lpn/grid_augment.py",
        (
            "no mirror",
            "jnp.where(mirror, last_col - source_col, source_col)",
            "jnp.where(mirror, source_col, source_col)",
        ),
        ("sides do not change places", "jnp.where(odd, shape[..., ::-1], shape)", "shape"),
    ),
    *planted(
        "jaxtta/lpn/grids.py",
        (
            "a cell beyond the grid",
            "valid = index < num_rows * num_cols",
            "valid = index <= num_rows * num_cols",
        ),
        ("rows as wide as they are high", "rows * width + cols", "rows * height + cols"),
    ),
    *planted(
        "jaxtrain/faces.py",
        ("a method is its file", "value = getattr(value, attribute)", "pass"),
        ("names as they are at home", "alias.asname or alias.name", "alias.name"),
    ),
    *planted(
        "jaxtrain/loops.py",
        ("a loop runs once", "Bound(found[1], int(found[2]))", "Bound(found[1], 1)"),
        (
            "loops have no name",
            'jax.named_scope(f"{name}_at_most_{most}")',
            "jax.named_scope(name)",
        ),
        tests=("tests/jaxtrain/host/test_costs.py",),
    ),
    *planted(
        "jaxtrain/schedules/applied.py",
        ("the rate of the update before", "jnp.where(new.count > 0, rate, old)", "old"),
        ("no metric", "return {} if rate is None else", "return {} if True else"),
        tests=("tests/jaxtrain/test_optimizers.py", "tests/jaxtrain/schedules/test_shapes.py"),
    ),
    *planted(
        "jaxtrain/schedules/checks.py",
        ("negative rates pass", "(np.isfinite(value) and value >= 0):", "np.isfinite(value):"),
        ("phases longer than the run", "and sum(phases.values()) > total_steps:", "and False:"),
        tests=("tests/jaxtrain/schedules/test_shapes.py",),
    ),
    *planted(
        "jaxtrain/nets/flax_norm.py",
        (
            "rows are not masked",
            "choice.norm, choice.mask, layer.axis_name",
            "choice.norm, None, layer.axis_name",
        ),
        (
            "the usual epsilon",
            "dict(epsilon=layer.epsilon, dtype=layer.dtype)",
            "dict(dtype=layer.dtype)",
        ),
        ("statistics are not stored", 'layer.put_variable("batch_stats", name, value)', "pass"),
    ),
    *planted(
        "jaxtrain/nets/nnx.py",
        ("statistics are not stored", "self.mean[...], self.var[...] = after", "pass"),
        ("the parameters of the module", "nnx.replace_by_pure_dict(part, now)", "pass"),
        tests=("tests/jaxtrain/nets/test_flax_norm.py",),
    ),
    *planted(
        "jaxtrain/nets/equinox.py",
        ("rows are not masked", "None if choice.mask is None else choice.mask[None]", "None"),
        (
            "sums for means",
            "share = jnp.where(number == 0, 1.0, 1.0 - layer.momentum**number)",
            "pass",
        ),
        ("a changed layer passes", "if odd := kinds - {eqx.nn.BatchNorm}:", "if odd := set():"),
    ),
    *planted(
        "jaxtrain/nets/linen.py",
        (
            "statistics are not stored",
            "return outputs, {**model_state, **updated}",
            "return outputs, model_state",
        ),
        (
            "no noise in training",
            'rngs = {} if key is None else {"dropout": key}',
            "rngs: dict = {}",
        ),
        tests=("tests/jaxtrain/test_core.py",),
    ),
    *planted(
        "jaxtrain/nets/convolution.py",
        (
            "the kernel is not turned",
            "turned = w[::-1, ::-1].swapaxes(2, 3)",
            "turned = w.swapaxes(2, 3)",
        ),
        (
            "options are forgotten",
            "if not plain or special or feature_group_count != 1:",
            "if not plain:",
        ),
    ),
    *planted(
        "jaxtrain/host/arrays.py",
        (
            "NaN in weights passes",
            "if finite and (bad := _num_not_finite(x)):",
            "if False and (bad := _num_not_finite(x)):",
        ),
        (
            "text is an array",
            "if not (x.dtype == bool or jnp.issubdtype(x.dtype, np.number)):",
            "if False:",
        ),
        ("trees are made again", "if not Path(path).is_file():", "if True:"),
    ),
    *planted(
        "jaxtrain/host/command.py",
        ("everything has changed", "if before.get(key) != value)", "if True)"),
        ("arguments are ignored", "if extra and not arguments:", "if False:"),
    ),
    *planted(
        "jaxtrain/host/commands.py",
        ("every module is a command", 'or f"\\n{_MAIN}\\n" in file.read_text())', "or True)"),
        ("flag and name in one word", 'module = module.partition("m")[2]', "pass"),
    ),
    *planted(
        "jaxtrain/host/config.py",
        ("nothing differs", "if before != after:", "if False:"),
        ("variants of a file without", "if arg and not parameters:", "if False:"),
        tests=(f"{HOST}/test_config.py", f"{HOST}/test_command.py"),
    ),
    *planted(
        "jaxtrain/host/costs.py",
        (
            "a multiply-add is one",
            "return 2 * math.prod(out) * math.prod(left",
            "return math.prod(out) * math.prod(left",
        ),
        ("the cheapest branch", "inner = [max(inner,", "inner = [min(inner,"),
        ("a scan runs once", 'params["length"] if name == "scan" else 1', "1"),
        ("nothing is freed", "alive -= sum(map(_size, ends.get(i, ())))", "pass"),
    ),
    *planted(
        "jaxtrain/host/chips.py",
        ("links twice as fast", "sent / chip.link,", "sent / chip.link / 2,"),
        (
            "what is read is not written",
            "cost.bytes / devices + 2 * state",
            "cost.bytes / devices + state",
        ),
        (
            "unknown types are fast",
            "slowest = min(chip.flops.values())",
            "slowest = max(chip.flops.values())",
        ),
    ),
    *planted(
        "jaxtrain/host/extras.py",
        ("the module for its package", '(error.name or module).partition(".")[0]', "module"),
        ("anything is a function", "if not callable(found):", "if False:"),
    ),
    *planted(
        "jaxtrain/host/failures.py",
        ("a full disk is a fault", "    errno.ENOSPC,", "    errno.ENOENT,"),
        (
            "threads are heard",
            "if about.exc_value is None or not in_a_sentence(about.exc_value):",
            "if True:",
        ),
    ),
    *planted(
        "jaxtrain/host/files.py",
        ("infinity in JSON", "return tree if math.isfinite(tree) else None", "return tree"),
        ("NaN is told apart", "json.dumps(finite(tree), ", "json.dumps(tree, "),
    ),
    *planted(
        "jaxtrain/host/leaves.py",
        (
            "places do not matter",
            "(place * jnp.uint32(2 * 0x9E3779B1 % 2**32) + jnp.uint32(1))",
            "jnp.uint32(1)",
        ),
        ("other shapes pass", "if k in saved and show(saved[k]) != show(expected[k])", "if False"),
        tests=("tests/jaxtrain/host/test_checkpoint.py",),
    ),
    *planted(
        "jaxtrain/host/partners.py",
        ("the last one heard of", "return found or [max(ages,", "return found or [min(ages,"),
        ("nobody counts", "self._count += 1", "pass"),
        ("one look is enough", "age > 3 * self._period", "age > 0 * self._period"),
    ),
    *planted(
        "jaxtrain/host/profile.py",
        ("the window has no end", "if stop >= self._last:", "if stop >= self._last + 9:"),
        ("compiled again, once", "if count > 1)", "if count > 2)"),
    ),
    *planted(
        "jaxtrain/host/proportions.py",
        ("both tails in one", "tail = 0.5 + level / 2", "tail = level"),
        ("the spread of the sample", "ddof=1) / trials", "ddof=0) / trials"),
        ("no correction", "excess = max(excess - n / 2, 0.0)", "pass"),
    ),
    *planted(
        "jaxtrain/host/report.py",
        (
            "an interval of one tail",
            "stdtrit(count - 1, 0.5 + level / 2)",
            "stdtrit(count - 1, level)",
        ),
        ("steps of the first run alone", "steps = np.intersect1d(steps, curve.steps)", "pass"),
    ),
    *planted(
        "jaxtrain/host/scans.py",
        (
            "steps are done again",
            "state, step, meta = saves.restore_or(state)",
            "state, _, meta = saves.restore_or(state)",
        ),
        ("outputs at the start", "all.at[i].set(y)", "all.at[0].set(y)"),
        ("NaN goes on", "            if bad:", "            if False:"),
        (
            "a stop is not saved",
            "due = step == num_steps or caught or",
            "due = step == num_steps or",
        ),
    ),
    *planted(
        "jaxtrain/host/schedules.py",
        (
            "the mean of the trials",
            "return np.median(values, axis=0)",
            "return np.mean(values, axis=0)",
        ),
        (
            "all trials have one peak",
            "config if peak is None else overlay(config, {_RATE: peak})",
            "config",
        ),
    ),
    *planted(
        "jaxtrain/host/signals.py",
        (
            "what was ignored is heard",
            "if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:",
            "if True:",
        ),
        ("a signal is not told", "caught.append(number)", "pass"),
    ),
    *planted(
        "jaxtrain/host/startup.py",
        ("any timeout passes", "if not 1 <= seconds <= 86_400:", "if False:"),
        ("Open MPI is not seen", 'or int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:', "or False:"),
        tests=("tests/jaxtrain/host/test_startup.py", "tests/jaxtrain/host/test_partners.py"),
    ),
    *planted(
        "jaxtrain/host/tensorboard.py",
        (
            "old events are shown",
            "self._add(step=purge_step, session_log=log(status=log.START))",
            "pass",
        ),
        ("all at step 0", "self._add(step=step, summary=", "self._add(step=0, summary="),
        tests=("tests/jaxtrain/host/test_metrics.py",),
    ),
    *planted(
        "jaxtrain/host/workdir.py",
        ("two runs in a folder", "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB"),
        ("files for folders", "if place.exists() and place.is_dir() != is_folder:", "if False:"),
    ),
    *planted(
        "experiments/data/arc/own_samples.py",
        (
            "a demonstration twice",
            "rng.permutation(len(task.train))[: self.num_pairs]",
            "rng.integers(len(task.train), size=self.num_pairs)",
        ),
        ("all processes draw the same", "range(index * size, (index + 1) * size)", "range(size)"),
        ("one demonstration is enough", "if len(task.train) < 2:", "if False:"),
        ("seeds do not matter", "[self._seed + 1, step", "[1, step"),
    ),
    *planted(
        "experiments/data/arc/scoring.py",
        (
            "3.0 is written",
            "if not all(type(cell) is int for row in grid for cell in row):",
            "if False:",
        ),
        ("the worse attempt", "each.max(axis=0)", "each.min(axis=0)"),
    ),
    *planted(
        "experiments/lpn/training_sets.py",
        ("weights are forgotten", "found[name] = value", "found[name] = 1.0"),
        ("a set twice", "or name in found or not name:", "or not name:"),
        (
            "generators are not counted",
            "return own + [task for task in found if task.id in ids]",
            "return own",
        ),
    ),
    *planted(
        "experiments/tta_claims.py",
        ("one folder for all", "--workdir={folder / name}", "--workdir={folder}"),
        ("all images", "for key in RUNS[name]] if number else []", "for key in ()]"),
    ),
    *planted(
        "docs/tables.py",
        ("any table", "if found and found[0] == columns:", "if found:"),
        ("the same table again", "return rows_of(EVIDENCE)", "return rows_of(COLUMNS)"),
        tests=("tests/test_docs.py",),
    ),
    *planted(
        "experiments/images/controls.py",
        (
            "weights of the source",
            "Method(core, (params, state.model_state))",
            "Method(core, source.weights)",
        ),
        ("a control with the method's settings", "name, **changes_of(text))", "name)"),
        (
            "controls of other settings",
            'check(config, {f"method.{name}.{key}": value})',
            "pass",
        ),
    ),
    *planted(
        "experiments/images/methods.py",
        (
            "no warm-up at rate 0",
            '"learning_rate": warm_up_learning_rate}',
            '"learning_rate": settings["learning_rate"]}',
        ),
        tests=("tests/experiments/images/test_controls.py",),
    ),
    *planted(
        "experiments/lpn/pattern_evaluation.py",
        (
            "a control that moves",
            "group.gradient_ascent.learning_rate = 0.0",
            "group.num_steps = group.num_steps",
        ),
    ),
    *planted(
        "experiments/images/trials.py",
        ("seeds beyond the largest", "> LARGEST_INTEGER:", "> 2 * LARGEST_INTEGER:"),
        ("null is no number", "return math.nan if tree is None else tree", "return tree"),
    ),
    *planted(
        "experiments/images/report.py",
        ("errors without labels", "wrong[:] = np.nan", "pass"),
        ("the best group", "metrics.worst_group_error(wrong[a], groups[a])", "wrong[a].mean()"),
        tests=(
            "tests/experiments/images/test_own_network.py",
            "tests/experiments/test_tta_images.py",
        ),
    ),
    *planted(
        "experiments/images/target.py",
        (
            "streams by labels that are none",
            "if not found.has_labels and config.stream.setting in BY_LABEL:",
            "if False:",
        ),
        ("any number of images", "slice(group.num_images or None)", "slice(None)"),
        tests=("tests/experiments/images/test_own_network.py",),
    ),
]

EXPERIMENTS = [
    *planted(
        "experiments/__main__.py",
        ("the whole docstring", r'return re.sub(r"(?<=\.) .*", "", text)', "return text"),
        ("no variant has a time", 'f"{v} ({time})" if time else v', "v"),
        tests=("tests/experiments/test_main.py",),
    ),
    *planted(
        "experiments/arc_statistics.py",
        ("one test input is several", "len(task.test) > 1", "len(task.test) >= 1"),
        (
            "one demonstration of equal size",
            "            all(given.shape == output.shape",
            "            any(given.shape == output.shape",
        ),
        tests=("tests/experiments/data/arc/test_tasks.py",),
    ),
    *planted(
        "experiments/build_rearc_cache.py",
        ("no workers at all", "not 1 <= int(text)", "not 0 <= int(text)"),
        ("columns without a limit", "max_cols=args.max_side", "max_cols=30"),
    ),
    *planted(
        "experiments/gpicl.py",
        ("the improvement is a loss", "end - start, loss)", "start - end, loss)"),
        (
            "a plateau of no end",
            "bounded = np.array([min(step, num_steps)",
            "bounded = np.array([max(step, num_steps)",
        ),
        (
            "a grid may change anything",
            "if not equals or path.split",
            "if not equals and path.split",
        ),
        (
            "half an accumulation",
            "if left := config.num_steps % config.optimizer.accumulate:",
            "if left := 0:",
        ),
        tests=(
            "tests/experiments/test_gpicl.py",
            "tests/experiments/test_configs.py",
        ),
    ),
    *planted(
        "experiments/lpn_arc.py",
        (
            "one key for the change and the update",
            "return core.update(state, augment(key_augment, batch), key_update)",
            "return core.update(state, augment(key, batch), key)",
        ),
        (
            "all tasks are turned alike",
            "jax.random.fold_in(key, i)))(tasks.index)",
            "jax.random.fold_in(key, 0 * i)))(tasks.index)",
        ),
        ("grids of any size", "if max(lengths) > largest:", "if max(lengths) > 30 * 30:"),
        tests=(
            "tests/experiments/test_lpn_arc.py",
            "tests/experiments/test_lpn_experiments.py",
            "tests/experiments/test_configs.py",
        ),
    ),
    *planted(
        "experiments/lpn_claims.py",
        (
            "views of one training are trained anew",
            "        if not kept.is_file():",
            "        if True:",
        ),
        (
            "one view for all",
            "settings = dict(augmentations=number)",
            "settings = dict(augmentations=1)",
        ),
    ),
    *planted(
        "experiments/lpn_patterns.py",
        ("all tasks are one", "(None, 0))(key, index)", "(None, 0))(key, 0 * index)"),
        (
            "a grid that is no square",
            "if (data.num_rows, data.num_cols) != (model.max_rows, model.max_cols):",
            "if data.num_rows != model.max_rows:",
        ),
        tests=(
            "tests/experiments/test_lpn_patterns.py",
            "tests/experiments/test_lpn_experiments.py",
            "tests/experiments/test_configs.py",
        ),
    ),
    *planted(
        "experiments/lr_schedules.py",
        (
            "a study sees all settings",
            "keys = (*SHARED, *STUDIES[config.study].reads, config.study)",
            "keys = config.keys()",
        ),
        (
            "nothing is validated",
            "    STUDIES[config.study].validate(own_settings(config))",
            "    own_settings(config)",
        ),
        tests=("tests/experiments/test_lr_schedules.py", "tests/experiments/test_configs.py"),
    ),
    *planted(
        "experiments/meta_rl.py",
        (
            "the last lifetime comes first",
            "config.levels.lifetime[0] > config.levels.lifetime[1]",
            "config.levels.lifetime[0] < config.levels.lifetime[1]",
        ),
        (
            "buckets of unequal size",
            'config.method == "lpg" and size % buckets:',
            'config.method == "lpg" and False:',
        ),
        (
            "a rule that is not zero",
            "jax.tree.map(lambda x: 0.0 * x, rule.init(key))",
            "rule.init(key)",
        ),
        tests=(
            "tests/experiments/test_meta_rl.py",
            "tests/experiments/test_rl_experiments.py",
            "tests/experiments/test_configs.py",
        ),
    ),
    *planted(
        "experiments/plan.py",
        (
            "the state counts once",
            "whole = 2 * trees.num_bytes(state)",
            "whole = trees.num_bytes(state)",
        ),
        ("too large fits", "if total <= limit:", "if total >= limit:"),
        ("equal steps are traced again", "if same not in steps:", "if True:"),
        (
            "a shared state is gathered for nothing",
            'parts["gathered"] = trees.num_bytes(params)',
            'parts["gathered"] = 0',
        ),
    ),
    *planted(
        "experiments/ppo.py",
        ("samples that do not divide", "samples % config.rollout.num_minibatches:", "False:"),
        (
            "epochs are not counted",
            "rollouts.num_epochs * rollouts.num_minibatches\n",
            "rollouts.num_minibatches\n",
        ),
        ("DPO is PPO", 'if config.method == "dpo" else', 'if config.method == "ppo" else'),
        ("returns of random actions", "moments, greedy=greedy)", "moments)"),
        ("the best return", "num_episodes)).mean()", "num_episodes)).max()"),
        tests=(
            "tests/experiments/test_ppo.py",
            "tests/experiments/test_rl_experiments.py",
            "tests/experiments/test_configs.py",
        ),
    ),
    *planted(
        "experiments/report.py",
        ("a metric that nobody recorded", "        if name not in recorded:", "        if False:"),
        (
            "one bad folder is no report",
            "            if len(folders) == 1:",
            "            if True:",
        ),
        tests=(f"{HOST}/test_report.py",),
    ),
    *planted(
        "experiments/data/patterns.py",
        (
            "rows and columns swapped",
            "[[num_rows - size + 1, num_cols - size + 1]]",
            "[[num_cols - size + 1, num_rows - size + 1]]",
        ),
        ("never at the edge", "num_rows - size + 1, num_cols", "num_rows - size, num_cols"),
        (
            "never the last colour",
            "(pattern_size, pattern_size), 1, 10)",
            "(pattern_size, pattern_size), 1, 9)",
        ),
        ("one key for both draws", "pairs = execute(key_pairs,", "pairs = execute(key_program,"),
    ),
    *planted(
        "experiments/data/arc/buckets.py",
        (
            "the answer is looked at",
            "+ [given for given, _ in task.test]",
            "+ [out for _, out in task.test]",
        ),
        ("fillers count", "weight = (positions >= 0).astype", "weight = (positions >= -1).astype"),
        (
            "a bucket of more demonstrations",
            "if n >= len(task.train)), default",
            "if n > len(task.train)), default",
        ),
        ("fillers come back as tasks", "            if position >= 0:", "            if True:"),
    ),
    *planted(
        "experiments/data/arc/pool.py",
        (
            "a dead worker stays silent",
            "except (EOFError, OSError, pickle.UnpicklingError) as error:",
            "except ZeroDivisionError as error:",
        ),
        ("strings hash as they like", '"PYTHONHASHSEED": "0"}', '"PYTHONHASHSEED": "random"}'),
        ("errors are answers", "        if not done:", "        if False:"),
    ),
    *planted(
        "experiments/data/arc/worker.py",
        ("prints mix with the answers", "sys.stdout = sys.stderr", "sys.stdout = sys.stdout"),
        (
            "an error ends the worker",
            "        except Exception as error:",
            "        except ZeroDivisionError as error:",
        ),
        tests=("tests/experiments/data/arc/test_pool.py",),
    ),
    *planted(
        "experiments/data/arc/rearc.py",
        (
            "rows without a limit",
            "(sizes <= limits).all(axis=-1)",
            "(sizes <= limits).any(axis=-1)",
        ),
        ("a task that fails gives what it has", "if len(pairs) == options.num_pairs:", "if pairs:"),
        (
            "unconfirmed pairs are kept",
            "if generators.solve[task_id](grids[0]) != grids[1]:",
            "if False:",
        ),
        (
            "ragged grids pass",
            "isinstance(row, tuple) and len(row) == len(grid[0])",
            "isinstance(row, tuple)",
        ),
        (
            "draws do not differ",
            'random.Random(f"{seed}/{index}/{draw}")',
            'random.Random(f"{seed}/{index}")',
        ),
        ("inputs for outputs", "zip(grids[::2], grids[1::2]", "zip(grids[1::2], grids[::2]"),
    ),
    *planted(
        "experiments/data/arc/rearc_cache.py",
        (
            "a pair twice in a task",
            "rng.sample(range(len(numbers)), self._options.num_pairs)",
            "rng.choices(range(len(numbers)), k=self._options.num_pairs)",
        ),
        (
            "a file cut short passes",
            "    if offsets[-1] != len(data):",
            "    if offsets[-1] < len(data):",
        ),
        ("colours beyond nine", "if cells.max() >= NUM_COLORS:", "if cells.max() > NUM_COLORS:"),
        (
            "larger than it was built for",
            "if have < want if name in limits else have != want:",
            "if have > want if name in limits else have != want:",
        ),
        (
            "a longer cache keeps the short end",
            '*folder.glob(".samples-*.part*")} - keep:',
            '*folder.glob(".samples-*.part*")} & set():',
        ),
    ),
    *planted(
        "experiments/data/arc/rearc_samples.py",
        ("all processes draw the same", "range(index * size, (index + 1) * size)", "range(size)"),
        (
            "nothing is fresh",
            "_uniform(self._seed, index) < self._fresh_share",
            "_uniform(self._seed, index) < 0",
        ),
        (
            "steps overlap",
            "[step * self._batch_size + i for i in self._slice]",
            "[step + i for i in self._slice]",
        ),
    ),
    *planted(
        "experiments/data/arc/task_batches.py",
        (
            "all tasks of a process have the first place",
            "[self._first + i for i in chosen]",
            "[i for i in chosen]",
        ),
        ("fillers count", "weight[: len(chosen)] = 1", "weight[:] = 1"),
        ("micro-batches that devices do not share", "size // devices * devices", "size"),
        (
            "the split with the most cells",
            "passes[cells.argmin(0), 0]",
            "passes[cells.argmax(0), 0]",
        ),
    ),
    *planted(
        "experiments/data/arc/tasks.py",
        (
            "left out tasks come last",
            "faults[place] if place in faults else next(tasks)",
            "next(tasks, None) or faults[place]",
        ),
        ("two tasks of one name", "if len({_bytes(file) for file in same}) > 1:", "if False:"),
        (
            "evaluation is training",
            'chosen = train_set if split == "training" else eval_set',
            "chosen = train_set",
        ),
        (
            "too few answers pass",
            "if not isinstance(answer, list) or len(answer) != len(tests):",
            "if not isinstance(answer, list):",
        ),
    ),
    *planted(
        "experiments/data/images/archives.py",
        ("the test images of training", '(f"x_{split}", f"y_{split}")', '("x_test", f"y_{split}")'),
        (
            "class 0 where none is known",
            "np.full(pixels.shape[:1], -1)",
            "np.full(pixels.shape[:1], 0)",
        ),
        tests=(
            "tests/experiments/data/images/test_archives.py",
            "tests/experiments/images/test_own_network.py",
        ),
    ),
    *planted(
        "experiments/data/images/cifar10.py",
        (
            "columns of tiles",
            ".reshape(100, 32, 100, 32, 3).swapaxes(1, 2)",
            ".reshape(100, 32, 100, 32, 3).swapaxes(0, 2).swapaxes(1, 2)",
        ),
        ("four of five batches", "for i in range(1, 6)]", "for i in range(1, 5)]"),
    ),
    *planted(
        "experiments/data/images/corruptions.py",
        (
            "one severity is drawn like another",
            "[seed, severity, zlib.crc32(name.encode())]",
            "[seed, zlib.crc32(name.encode())]",
        ),
        (
            "contrast about zero",
            '(x - means) * constant("contrast", severity) + means',
            'x * constant("contrast", severity)',
        ),
        ("noise of white pixels only", "x + x * rng.normal(scale", "x + rng.normal(scale"),
        (
            "bright pixels wrap around",
            "(np.clip(x, 0, 1) * 255).astype(np.uint8) for x in done",
            "(x * 255).astype(np.uint8) for x in done",
        ),
    ),
    *planted(
        "experiments/data/images/cropping.py",
        ("the longer side", "shorter * side / min(sides)", "shorter * side / max(sides)"),
        (
            "the corner",
            "top, left = round((height - size) / 2), round((width - size) / 2)",
            "top, left = 0, 0",
        ),
        (
            "top and left swapped",
            "[top : top + size, left : left + size]",
            "[left : left + size, top : top + size]",
        ),
    ),
    *planted(
        "experiments/data/images/digits.py",
        (
            "test images are trained on",
            'order[:cut] if split == "train" else order[cut:]',
            'order[:cut] if split == "train" else order[-cut:]',
        ),
        ("colour agrees", "is_red = labels ^ (rng.random", "is_red = labels | (rng.random"),
        (
            "a quarter of the labels is right",
            "rng.random(len(digit)) < LABEL_NOISE[name]",
            "rng.random(len(digit)) > LABEL_NOISE[name]",
        ),
    ),
    *planted(
        "experiments/data/images/filters.py",
        ("blurs the colours", "(0, sigma, sigma) + (0,) *", "(0, sigma, sigma) + (sigma,) *"),
        (
            "rows for columns",
            "down = np.ceil(taps * np.sin(angle)",
            "down = np.ceil(taps * np.cos(angle)",
        ),
        ("hue of green", "2 + (blue - red) / safe", "2 + (red - blue) / safe"),
        (
            "a map that is no torus",
            "np.roll(corners, -1, 1)\n        heights[:, half::step, half::step]",
            "np.roll(corners, 1, 1)\n        heights[:, half::step, half::step]",
        ),
    ),
    *planted(
        "experiments/data/images/folders.py",
        ("class after class", "(rank, label, file)\n", "(label, rank, file)\n"),
        ("hidden pictures", "if not classes_.is_hidden(file))", "if True)"),
        ("pictures beside classes", "    if files and classes:", "    if False:"),
    ),
    *planted(
        "experiments/data/images/idx.py",
        ("bytes too many", "if len(found) != size:", "if len(found) < size:"),
        (
            "labels of the other part",
            "array(files[split, kind][0])",
            'array(files[split if kind == "images" else "test", kind][0])',
        ),
        ("any type is bytes", 'head[:3] != b"\\0\\0\\x08"', 'head[:2] != b"\\0\\0"'),
    ),
    *planted(
        "experiments/data/images/labelled.py",
        ("names of other rows", "(None if x is None else x[which] for x", "(x for x"),
        ("class 0 is none", "(self.labels >= 0).any()", "(self.labels > 0).any()"),
        (
            "the given folder comes last",
            '[data_dir, os.environ.get("JAXTTA_DATA", "")]',
            '[os.environ.get("JAXTTA_DATA", ""), data_dir]',
        ),
        tests=(
            "tests/experiments/data/images/test_loader.py",
            "tests/experiments/data/images/test_folders.py",
            "tests/experiments/images/test_own_network.py",
        ),
    ),
    *planted(
        "experiments/data/images/loader.py",
        ("too few images are enough", "if number > len(found.images):", "if False:"),
        ("all images", "found.rows(slice(number or None))", "found"),
        ("training is test", 'seed=int(split == "train")', "seed=0"),
        (
            "grey is red",
            "np.repeat(pixels.reshape(*pixels.shape[:3], 1), 3, axis=-1)",
            "np.pad(pixels.reshape(*pixels.shape[:3], 1), [(0, 0)] * 3 + [(0, 2)])",
        ),
    ),
    *planted(
        "experiments/data/images/made_up.py",
        ("all classes have one direction", "np.pi * (labels % 5) / 5", "0 * labels"),
        ("blobs of other labels", "x = classes[labels] *", "x = classes[np.sort(labels)] *"),
    ),
    *planted(
        "experiments/data/images/published.py",
        ("one severity too far", "slice((severity - 1) * BLOCK,", "slice(severity * BLOCK,"),
        (
            "other images in the same places",
            "if stored.is_file() and not np.array_equal",
            "if False and not np.array_equal",
        ),
        (
            "pictures without a copy",
            "if missing := [file for file in files if not file.is_file()]:",
            "if missing := []:",
        ),
    ),
    *planted(
        "experiments/data/images/tfds.py",
        (
            "sorted by the shuffle",
            "order = np.argsort(shuffled(len(stored.labels)))",
            "order = shuffled(len(stored.labels))",
        ),
        ("the oldest version", "return max(found, key=", "return min(found, key="),
        ("images without labels", 'or found[0]["label"] >= 0:', "or True:"),
    ),
    *planted(
        "experiments/data/images/vectors.py",
        ("the last class is missing", "range(low, high + 1)", "range(low, high)"),
        (
            "test images by their own mean",
            "((x - mean) / std).reshape",
            "((x - x.mean()) / std).reshape",
        ),
        (
            "classes keep their numbers",
            "labels=np.searchsorted(classes, part.labels)",
            "labels=part.labels",
        ),
        (
            "blocks across rows",
            ".reshape(n, size, k, size, k, channels).mean(axis=(2, 4))",
            ".reshape(n, size, k, size, k, channels).mean(axis=(1, 3))",
        ),
        ("grey is red", "x = x.mean(-1, keepdims=True)", "x = x[..., :1]"),
        ("enlarged to blocks", '*shape), "linear")', '*shape), "nearest")'),
    ),
    *planted(
        "experiments/images/checks.py",
        ("odd halves", 'group.setting == "open_set" and size % 2,', "False,"),
        ("batches of a window", "group.window and size != 1,", "False,"),
        ("groups that do not divide", "groups and channels % groups,", "False,"),
        (
            "a queue shorter than a batch",
            '"adanpc" in chosen and 0 < config.method.adanpc.growth < config.batch_size,',
            "False,",
        ),
        tests=("tests/experiments/test_configs.py",),
    ),
    *planted(
        "experiments/images/diffusion.py",
        (
            "classes in a row",
            "cut(np.arange(number) % num_classes)",
            "cut(np.arange(number) // num_classes)",
        ),
        ("another network passes", "if trees.describe(expected) != {", "if False and {"),
        (
            "tuned by the plain weights",
            "return Denoiser(network, state.ema)",
            "return Denoiser(network, state.state.params)",
        ),
        tests=(
            "tests/experiments/images/test_diffusion.py",
            "tests/experiments/test_tta_images.py",
        ),
    ),
    *planted(
        "experiments/images/evaluate.py",
        (
            "every part starts anew",
            "states.pop(name) if name in states else evaluator.start()",
            "evaluator.start()",
        ),
        (
            "the key of a batch is its place in the part",
            "part.stream, key, part.first)",
            "part.stream, key, 0)",
        ),
        tests=(
            "tests/experiments/images/test_evaluate.py",
            "tests/experiments/test_tta_images.py",
        ),
    ),
    *planted(
        "experiments/images/known.py",
        (
            "batches run backwards",
            "x[: len(x) // size * size].reshape",
            "x[: len(x) // size * size][::-1].reshape",
        ),
        (
            "images as bytes",
            "images=batches.images / np.float32(255)",
            "images=batches.images / np.float32(1)",
        ),
        tests=("tests/experiments/images/test_known.py", "tests/experiments/test_tta_images.py"),
    ),
    *planted(
        "experiments/images/methods.py",
        (
            "entropies of any number of classes",
            "limit = threshold * math.log(source.num_classes)",
            "limit = threshold",
        ),
        (
            "SAR adapts all layers",
            "return Method(_reliable(sar, source, select=select,",
            "return Method(_reliable(sar, source,",
        ),
        ("the stem of ImageNet for all", "stride = 2 if module.imagenet_stem else 1", "stride = 2"),
        ("nothing is scored again", "if name in config.rescored else build", "if False else build"),
        (
            "SGD without momentum",
            "optax.sgd(learning_rate, momentum=0.9, nesterov=nesterov)",
            "optax.sgd(learning_rate)",
        ),
        ("momentum looks back", "nesterov=nesterov", "nesterov=False"),
        tests=(
            "tests/experiments/images/test_methods.py",
            "tests/experiments/images/test_known.py",
            "tests/experiments/images/test_own_network.py",
            "tests/experiments/test_tta_images.py",
            "tests/experiments/test_configs.py",
        ),
    ),
    *planted(
        "experiments/images/own_network.py",
        (
            "weights of another network",
            "if wrong := [n for n in {**wanted, **shapes} if shapes.get(n) != wanted.get(n)]:",
            "if wrong := []:",
        ),
        (
            "methods that would be the source",
            "if needed and not found.has_statistics:",
            "if False:",
        ),
    ),
    *planted(
        "experiments/images/settings.py",
        (
            "a target has corruptions",
            "if not (config.data.target and key in OF_CORRUPTIONS)",
            "if True",
        ),
        ("all groups are read", "if set(users) & set(names)]", "]"),
        (
            "baselines are left out",
            "dict.fromkeys((*BASELINES, *config.methods))",
            "dict.fromkeys(config.methods)",
        ),
        tests=(
            "tests/experiments/images/test_settings.py",
            "tests/experiments/test_configs.py",
            "tests/experiments/test_tta_images.py",
        ),
    ),
    *planted(
        "experiments/images/source.py",
        (
            "a tail of no length",
            "return data.rows(streams.long_tailed_subset(data.labels, config.source.imbalance))",
            "return data",
        ),
        (
            "classes the network does not know",
            "data = data.rows(data.labels < config.model.num_classes)",
            "pass",
        ),
        (
            "all models have one fingerprint",
            "digest.update(np.ascontiguousarray(leaf).tobytes())",
            "pass",
        ),
    ),
    *planted(
        "experiments/images/stream.py",
        ("unknown classes are known", "np.full(len(unknown), -1)", "np.full(len(unknown), 0)"),
        (
            "mixed domains are cut",
            "if (stream.mask & (stream.domain != first)).any():",
            "if False:",
        ),
        (
            "cut one batch late",
            "np.flatnonzero(np.diff(first[:, 0])) + 1",
            "np.flatnonzero(np.diff(first[:, 0]))",
        ),
        ("every part is the first", "num_batches += len(piece.reset)", "pass"),
        (
            "severities outside",
            "for name in shift_names(config) for severity in severities(config)]",
            "for severity in severities(config) for name in shift_names(config)]",
        ),
        tests=(
            "tests/experiments/images/test_stream.py",
            "tests/experiments/test_tta_images.py",
            "tests/experiments/images/test_own_network.py",
        ),
    ),
    *planted(
        "experiments/tta_images.py",
        (
            "rows are computed again",
            "missing = [name for name in names if name not in rows]",
            "missing = names",
        ),
        (
            "a signal is not heard",
            "            if caught:\n                break",
            "            if False:\n                break",
        ),
        (
            "sweeps have one value per seed",
            "np.mean(trial[name]) for trial",
            "trial[name][0] for trial",
        ),
        tests=("tests/experiments/images/test_trials.py", "tests/experiments/test_tta_images.py"),
    ),
    *planted(
        "experiments/in_context/settings.py",
        (
            "optimiser steps are batches",
            "config.num_steps // config.optimizer.accumulate",
            "config.num_steps",
        ),
        (
            "sequences longer than the set",
            "if not probe.replace and len(probe.data.labels) < config.tasks.length",
            "if False",
        ),
        (
            "tasks of another seed",
            "jax.random.fold_in(jax.random.key(0), seed)",
            "jax.random.key(0)",
        ),
        (
            "unseen tasks are seen",
            '"unseen": Probe(base, replace=replace),',
            '"unseen": Probe(base, seen=True, replace=replace),',
        ),
        ("foreign sets of any size", "if loaded.num_classes > self.base.num_classes:", "if False:"),
        tests=(
            "tests/experiments/in_context/test_settings.py",
            "tests/experiments/test_gpicl.py",
            "tests/experiments/test_configs.py",
        ),
    ),
    *planted(
        "experiments/lpn/arc_evaluation.py",
        (
            "its own demonstrations as a control",
            "tasks[other].train, task.test)",
            "task.train, task.test)",
        ),
        ("the next sample of the same generator", "if generators[j] != generators[i])", "if True)"),
        ("unknown answers count", "all(output is not None for _, output in t.test)]", "True]"),
        (
            "left out tasks do not count",
            "scoring.score(known, solved.predictions, one.unsolved)",
            "scoring.score(known, solved.predictions)",
        ),
        tests=(
            "tests/experiments/lpn/test_arc_evaluation.py",
            "tests/experiments/test_lpn_experiments.py",
        ),
    ),
    *planted(
        "experiments/lpn/arc_solving.py",
        (
            "results depend on the group",
            "zlib.crc32(tasks[i].id.encode()) if i >= 0 else 0 for i in positions",
            "int(i) for i in positions",
        ),
        (
            "rows and columns swapped",
            "[: rows * cols].reshape(rows, cols)",
            "[: rows * cols].reshape(cols, rows)",
        ),
        ("one step costs nothing", "encode + score + n * step", "encode + score + step"),
        ("the start costs nothing", "encode + score + n * step", "encode + n * step"),
        (
            "a step is a forward pass",
            "jax.value_and_grad(lambda z: scorer(lpn, params, pairs)(z).score.sum())(z)",
            "scorer(lpn, params, pairs)(z).score.sum()",
        ),
        (
            "attempts of other steps",
            "grid_array(grids, (q, 2 * s + a))",
            "grid_array(grids, (q, s + a))",
        ),
        (
            "one attempt for both",
            "grid_array(row.attempts, (q, a))",
            "grid_array(row.attempts, (q, 0))",
        ),
        tests=(
            "tests/experiments/lpn/test_arc_solving.py",
            "tests/experiments/test_lpn_experiments.py",
        ),
    ),
    *planted(
        "experiments/lpn/evaluation.py",
        ("any pair instead of the last", "x[:, -1:], pairs", "x[:, :1], pairs"),
        ("padding has a posterior", "[valid].mean(0)", ".mean(0)"),
        ("a wrong shape has right cells", "jnp.where(shapes, right, 0.0)", "right"),
        (
            "one key for all problems",
            "jax.random.fold_in(key, index), demo",
            "jax.random.fold_in(key, 0), demo",
        ),
        ("cells beyond the grid are right", "== truth.cells) & valid)", "== truth.cells))"),
    ),
    *planted(
        "experiments/lpn/figures.py",
        (
            "demonstrations out of place",
            "if i < len(pairs) else (None, None)",
            "if i + 1 < len(pairs) else (None, None)",
        ),
        (
            "searches of no step are drawn",
            "if not (np.isfinite(trajectory) & (trajectory != trajectory[:, :1])).any():",
            "if False:",
        ),
    ),
    *planted(
        "experiments/lpn/gains.py",
        (
            "a control over the baseline",
            'before = starts["_shuffled" if name.endswith("_shuffled") else ""]',
            'before = starts[""]',
        ),
        ("losses for gains", "[gain(*both) for both", "[gain(*both[::-1]) for both"),
    ),
    *planted(
        "experiments/lpn/pattern_evaluation.py",
        (
            "a control with its own demonstrations",
            "jnp.roll(x, num_pairs, axis=0)",
            "jnp.roll(x, 0, axis=0)",
        ),
        (
            "the posterior of other demonstrations",
            "Problems(other, given.targets, None, suffix)",
            "Problems(other, given.targets, given.posterior, suffix)",
        ),
        ("one demonstration too few", "sets(num_pairs=n + 1)", "sets(num_pairs=n)"),
        (
            "densities of training",
            "density=d) for d in densities]",
            "density=usual) for d in densities]",
        ),
    ),
    *planted(
        "experiments/lpn/searches.py",
        ("samples are searched on", "0 if single_step else config.num_steps,", "config.num_steps,"),
        (
            "impossible options wait for the run",
            "try_search(method.make_search, method.num_candidates, method.uses_posterior)",
            "pass",
        ),
        ("no perturbations, but random ones", "if number else None,", "if True else None,"),
        tests=("tests/experiments/lpn/test_settings.py", "tests/experiments/test_configs.py"),
    ),
    *planted(
        "experiments/lpn/settings.py",
        (
            "cuDNN where it cannot be differentiated",
            "structure.suits_cudnn and not searches",
            "structure.suits_cudnn",
        ),
        (
            "room for one demonstration more",
            '== "in_context" and most > room:',
            '== "in_context" and most > room + 1:',
        ),
        tests=("tests/experiments/lpn/test_settings.py", "tests/experiments/test_configs.py"),
    ),
    *planted(
        "experiments/lpn/micro_batches.py",
        (
            "micro-batches that do not divide",
            "if size < 1 or config.batch_size % size or size % devices:",
            "if size < 1 or size % devices:",
        ),
        ("scores of half the pairs", "decoded *= data.num_pairs - 1", "decoded *= 1"),
        ("micro-batches beyond the caches", "min(share, most) + 1", "share + 1"),
        ("accelerators have caches, too", "if on_cpu else 0", "if True else 0"),
        tests=("tests/experiments/lpn/test_micro_batches.py", "tests/experiments/test_configs.py"),
    ),
    *planted(
        "experiments/lpn/weights.py",
        ("the optimiser's arrays are weights", "return params or flat", "return flat"),
        ("NaN in weights passes", "arrays.read(path, finite=True)", "arrays.read(path)"),
    ),
    *planted(
        "experiments/rl/environments.py",
        ("unsound environments", "        envs.check_env(env)\n", ""),
        (
            "two arms for ten",
            '"bandit_10": lambda: envs.bandit(10)',
            '"bandit_10": lambda: envs.bandit(2)',
        ),
        tests=("tests/experiments/test_rl_experiments.py",),
    ),
    *planted(
        "experiments/rl/meta_test.py",
        (
            "a mean of ratios",
            ".sum(0).mean() / jnp.abs(said).mean()",
            ".sum(0).mean() / jnp.abs(said[0]).mean()",
        ),
        ("the nearest on both sides", "(away > 0) & (slopes", "(away != 0) & (slopes"),
        (
            "the other way",
            "jnp.abs(last - first).mean() / jnp.abs(first).mean()",
            "jnp.abs(last - first).mean() / jnp.abs(last).mean()",
        ),
    ),
    *planted(
        "experiments/schedules/continual.py",
        (
            "the peak of another kind",
            "values, 2, 0)[best, :, row]",
            "values, 2, 0)[best[::-1], :, row]",
        ),
        (
            "tasks to come are forgotten",
            "forgets.append(change[..., :border].mean(-1))",
            "forgets.append(change.mean(-1))",
        ),
        (
            "what is forgotten is gained",
            "np.mean([values[-1, ..., i] - then for i, then",
            "np.mean([then - values[-1, ..., i] for i, then",
        ),
        (
            "nothing goes back",
            "inner = pick(begins & restores, state.saved, state.inner)",
            "inner = state.inner",
        ),
    ),
    *planted(
        "experiments/schedules/convex.py",
        ("sign of the labels", "jax.nn.softplus(-y[trial[1]] *", "jax.nn.softplus(y[trial[1]] *"),
        ("no label is flipped", "jnp.where(flipped, -1.0, 1.0)", "jnp.where(flipped, 1.0, 1.0)"),
        ("theory's peak without T", "(bound_g * jnp.sqrt(num_steps))", "bound_g"),
        ("uphill", "x - eta * jnp.sign(a[i] @", "x + eta * jnp.sign(a[i] @"),
        ("dense steps", "x.at[place].add(-eta * jnp.sign(residual) * value)", "x - eta * residual"),
        ("noise is an error", "(jnp.abs(errors - noise) - jnp.abs(noise))", "jnp.abs(errors)"),
    ),
    *planted(
        "experiments/schedules/language.py",
        ("the letter itself", '"labels": found[:, 1:]', '"labels": found[:, :-1]'),
        (
            "validation letters are trained on",
            "jnp.asarray(codes[:cut]), jnp.asarray(codes[cut:])",
            "jnp.asarray(codes), jnp.asarray(codes[cut:])",
        ),
        ("sees the letters to come", "(x, mask)\n", "(x)\n"),
    ),
    *planted(
        "experiments/schedules/search.py",
        (
            "every label is right",
            "            wrong, jax.random.randint(keys[2]",
            "            wrong & False, jax.random.randint(keys[2]",
        ),
        (
            "never is the first step",
            "np.where(below.any(0), steps[below.argmax(0)], np.nan)",
            "steps[below.argmax(0)]",
        ),
        (
            "tested on the validation data",
            "loss_on(12, options.test_examples)",
            "loss_on(13, options.test_examples)",
        ),
    ),
    *planted(
        "experiments/schedules/trials.py",
        (
            "a diverged trial wins",
            "np.where(np.isfinite(losses), losses, np.inf).mean(-1)",
            "np.nan_to_num(losses, posinf=0.0).mean(-1)",
        ),
        ("the worst peak", "best = means.argmin(1)", "best = means.argmax(1)"),
        (
            "the first name fastest",
            "itertools.product(*values.values())",
            "(x[::-1] for x in itertools.product(*list(values.values())[::-1]))",
        ),
        ("one rate for all peaks", 'values["peak"] * table[', "table["),
    ),
]

ALONE = [
    *planted(
        "jaxtta/halfspaces.py",
        ("the sign stays as it is", "jnp.where(wrong <= turned, w, -w)", "w"),
        ("tests choose nothing", "(errors + jnp.where(good, 0, 2)).argmin()", "errors.argmin()"),
        ("slopes of the ramp do not meet", "(v + v**2 - v**3) / 3", "(v + v**2) / 6"),
        ("the largest gradient is chosen", "(slope, kept).argmin()", "(slope, kept).argmax()"),
        ("bands end too far out", "jnp.array([1 / 6, 1 / 2])", "jnp.array([1 / 2, 1.0])"),
        (
            "one test is enough",
            "good = jnp.stack(list(passed.values())).all(0)",
            "good = jnp.stack(list(passed.values())).any(0)",
        ),
        (
            "w counts in the spread",
            "(inside[:, None], rest, 0).T @ rest",
            "(inside[:, None], x, 0).T @ x",
        ),
    ),
    *planted(
        "experiments/data/halfspace_samples.py",
        (
            "noise far from the boundary",
            "MOST / (1 + jnp.abs(x @ w))",
            "MOST * (1 - 1 / (1 + jnp.abs(x @ w)))",
        ),
        (
            "labels of the cluster are known",
            "jnp.where(dense, jax.random.rademacher(key_label, y.shape, y.dtype), y)",
            "y",
        ),
        ("any labels", "not in ({-1, 1}, {0, 1}):", "in ():"),
    ),
    *planted(
        "experiments/halfspaces.py",
        ("a test that any seed passes has not failed", "1 - np.mean(x)", "1 - np.max(x)"),
        ("the file is not looked at", "if file := data.file:", 'if file := "":'),
    ),
]

MEMORY = [
    *planted(
        "jaxtta/sparsey.py",
        ("no past is a known past", "alone = before & (", "alone = jnp.ones_like(before) & ("),
        (
            "padding is seen",
            "jnp.where(fields >= 0, x[jnp.maximum(fields, 0)], 0)",
            "x[jnp.maximum(fields, 0)]",
        ),
        ("familiarity of the best module", "value.max(-1).mean(-1)", "value.max(-1).max(-1)"),
        ("the power is left out", "jnp.maximum(above, 1e-9) ** rule.gamma", "above"),
        ("frozen units are written", "active[:, None] & ~frozen", "active[:, None] & True"),
        ("the first tie wins", "jax.random.uniform(key, value.shape), -1)", "1, -1)"),
        ("the past is not linked", "linked = (active & ", "linked = (active & False & "),
        (
            "winners without a code vote",
            "jnp.where((winners >= 0)[..., None], shared, 0)",
            "shared",
        ),
        ("the centre runs on", "past, rule.last_centre, nearer", "past, nearer, nearer + 0.01"),
    ),
    *planted(
        "experiments/data/images/sparse.py",
        ("the least response", "np.argpartition(-response", "np.argpartition(response"),
        ("ends are eaten", "(number >= 2)", "(number >= 1)"),
        ("one side only", "for turn in (0, 1):", "for turn in (0,):"),
    ),
    *planted(
        "experiments/memory.py",
        ("the longest is nearest", "(stored / length[:, None]).T", "(stored / 1.0).T"),
        ("every batch is the first", "number)[state.memory.presented + places]", "number)[places]"),
        ("items may come again", "seed), available)[:number]", "seed), available)[:number] // 2"),
        ("too many items", "if number > len(stored.labels):", "if False:"),
    ),
]

SELF_SUPERVISED = [
    *planted(
        "jaxtta/barlow_twins.py",
        ("the diagonal is redundant", "off = square - (diagonal**2).sum()", "off = square"),
        ("one of the products", "(a @ whole[0].T) * (b @ whole[1].T)", "(a @ whole[0].T) ** 2"),
        (
            "the first view twice",
            "return (first.embedding, second.embedding), state",
            "return (first.embedding, first.embedding), state",
        ),
        ("vectors as fast as matrices", "vector_rate * rates(step)", "rates(step)"),
        ("vectors are scaled like matrices", "if jnp.ndim(x) > 1 else", "if jnp.ndim(x) > 0 else"),
        ("the last layer is normalised", "if i + 1 < len(self.widths):", "if True:"),
    ),
    *planted(
        "jaxtta/images/changes/two_views.py",
        ("crops are moved the wrong way", "-first * factor", "first * factor"),
        ("both views are blurred alike", "spec.blur[view]", "spec.blur[0]"),
        (
            "one shift for both views",
            "return one(image, first), one(image, second)",
            "return one(image, first), one(image, first)",
        ),
        ("dark pixels are solarised", "(x >= 0.5), 1 - x, x)", "(x <= 0.5), 1 - x, x)"),
    ),
    *planted(
        "experiments/self_supervised.py",
        (
            "the probe has no ridge",
            "(jax.nn.softmax(rows @ w) - target) + w",
            "(jax.nn.softmax(rows @ w) - target)",
        ),
        (
            "rows of any class",
            "jnp.where(mine, order[None], -1)",
            "jnp.where(mine, order[None], order[None])",
        ),
        ("too few images", "if counts.min() < max(LABELS):", "if False:"),
    ),
]

VISION_LANGUAGE = [
    *planted(
        "jaxtta/dense/boxes.py",
        ("the intersection counts twice", "volume(b)[None] - common", "volume(b)[None]"),
        (
            "suppressed boxes suppress",
            "(close[i] & keep).any()",
            "(close[i] & (scores > scores[i])).any()",
        ),
        ("a true box is found again", "return free & ~((", "return free | (("),
        ("precision falls between hits", "jax.lax.cummax(precision, reverse=True)", "precision"),
    ),
    *planted(
        "jaxtta/vision_language/t3al.py",
        ("negatives are drawn up", "jnp.array([1.0, 0.0]), picks", "jnp.array([0.0, 1.0]), picks"),
        (
            "nothing is averaged",
            "(sums[width:] - sums[:-width]) / width",
            "padded[: len(sums) - width]",
        ),
        (
            "the last state leaks",
            "return T3alState(last, opt_state, state.names)",
            "return T3alState(params, opt_state, state.names)",
        ),
        (
            "names are drawn to frames",
            "jax.lax.stop_gradient(0.8 * unit(b) + 0.2 / b.shape[-1])",
            "0.8 * unit(b) + 0.2 / b.shape[-1]",
        ),
        ("single frames are regions", "filled & (length[run] > 1)", "filled & (length[run] > 0)"),
        (
            "the lowest are the highest",
            "top, bottom = rank < number, (rank >= count - number) & valid",
            "top, bottom = rank < number, rank < number",
        ),
    ),
    *planted(
        "jaxtrain/nets/two_tower.py",
        (
            "equal texts are negatives",
            "masked = same & (own[:, None] != place[None])",
            "masked = same & False",
        ),
        ("one direction", "(one_way(a, whole_b) + one_way(b, whole_a)) / 2", "one_way(a, whole_b)"),
    ),
    *planted(
        "experiments/data/videos.py",
        ("videos of several actions", "== 1 and shortest", ">= 1 and shortest"),
        ("segments run on", "(a, min(b, duration))", "(a, b)"),
        ("names are not turned", "made.concepts + misalignment * turned", "made.concepts"),
    ),
    *planted(
        "experiments/tta_vision_language.py",
        (
            "level frames count",
            "0.5 * (score[:, None] == score[None])",
            "1.0 * (score[:, None] == score[None])",
        ),
        ("wrong names are right", "& right", "| (right & False)"),
        ("any mask", "(np.diff(mask.astype(int), axis=1) > 0).any()", "False"),
    ),
]

CONTINUAL = [
    *planted(
        "jaxtta/ovor.py",
        (
            "outliers lie on boundary points",
            "edge[:, None] + offsets",
            "edge[:, None] + 0 * offsets",
        ),
        (
            "the nearest candidates",
            "jax.lax.top_k(distance, number)",
            "jax.lax.top_k(-distance, number)",
        ),
        ("the inner points", "jax.lax.top_k(far, boundary)", "jax.lax.top_k(-far, boundary)"),
        (
            "one neighbour less",
            "-jax.lax.top_k(-distances, which)[0][-1]",
            "-jax.lax.top_k(-distances, which)[0][-2]",
        ),
        ("all classes are of the task", "owner <= task if seen else owner == task", "owner >= 0"),
        (
            "energies of outliers are not raised",
            "jax.nn.relu(high - outside)",
            "jax.nn.relu(outside - high)",
        ),
        ("the release is as the paper", "    if around_origin:\n", "    if False:\n"),
        ("keys are not learned", "return value + pull.mean(), metrics", "return value, metrics"),
        (
            "prompts learn from outliers",
            'optimizer, ("head",), axis_name)',
            'optimizer, ("prompts", "head"), axis_name)',
        ),
    ),
    *planted(
        "jaxtta/prompts.py",
        (
            "the task is never found",
            "jnp.where(task >= 0, task, near.argmax(1))",
            "jnp.where(task >= 0, task, 0 * near.argmax(1))",
        ),
        ("the farthest key", "near.argmax(1)", "near.argmin(1)"),
        ("keys are pushed away", "pull = 1 - jnp.take", "pull = 1 + jnp.take"),
        (
            "all blocks have one prompt",
            "k, n in zip(keys, lengths, strict=True)",
            "k, n in zip(keys[:1].repeat(len(lengths), 0), lengths, strict=True)",
        ),
    ),
    *planted(
        "experiments/continual.py",
        (
            "classes may be missing",
            "set(range(num_classes)) - set(part.labels.tolist())",
            "set(part.labels.tolist()) - set(range(num_classes))",
        ),
        (
            "too many outliers",
            "if classes * outliers.per_class > outliers",
            "if 0 * outliers.per_class > outliers",
        ),
    ),
    *planted(
        "experiments/incremental/learning.py",
        ("one order of classes", "default_rng(seed).permutation", "default_rng(0).permutation"),
        (
            "labels of before",
            "test.images, place[test.labels])",
            "test.images, test.labels.astype(np.int32))",
        ),
    ),
    *planted(
        "experiments/incremental/scores.py",
        (
            "wrong classes of the task are crossed",
            "right[-1],\n        given != owner,",
            "right[-1],\n        ~right[-1],",
        ),
        ("forgetting counts the end", "shares[j:-1, j].max()", "shares[j:, j].max()"),
        (
            "the other sign",
            "of(first, name) - of(second, name)",
            "of(second, name) - of(first, name)",
        ),
    ),
    *planted(
        "jaxtrain/nets/vit.py",
        (
            "prefixes come last",
            "jnp.concatenate([split, x], axis=2)",
            "jnp.concatenate([x, split], axis=2)",
        ),
        ("heads of a prefix are mixed", '"b p (h d) -> b h p d"', '"b p (d h) -> b h p d"'),
        (
            "every key twice",
            "in_front(prefixes[i][0], k), in_front(prefixes[i][1], v)",
            "in_front(prefixes[i][0], k), in_front(prefixes[i][0], v)",
        ),
        tests=("tests/jaxtrain/nets/test_vit.py",),
    ),
]


RLCF = [
    *planted(
        "jaxtta/vision_language/rlcf.py",
        ("rewards are not centred", "scores - scores.mean(-1, keepdims=True)", "scores"),
        (
            "what is liked becomes rarer",
            "return -(score * chances).mean()",
            "return (score * chances).mean()",
        ),
        (
            "negative cosines count",
            "jnp.multiply(weight, jnp.maximum(cosines, 0))",
            "jnp.multiply(weight, cosines)",
        ),
        (
            "the least confident views",
            "policy(state.params, known, views)).argsort()",
            "-policy(state.params, known, views)).argsort()",
        ),
        (
            "the last view is classified",
            "logits = policy(params, known, views[:1])",
            "logits = policy(params, known, views[-1:])",
        ),
        (
            "steps that are not finite",
            "sound = batches.stays_finite((value, *new), (jnp.zeros(()), *old))",
            "sound = jnp.ones((), bool)",
        ),
        (
            "images begin where the last one ended",
            "begins = trees.ema(state.original, average, 1 - weight)",
            "begins = after.params",
        ),
    ),
    *planted(
        "jaxtta/vision_language/towers.py",
        (
            "the scale is left out",
            "return jnp.exp(known.policy.log_scale) * seen @ known.texts.T",
            "return seen @ known.texts.T",
        ),
        ("the reward is the policy", "    pair = known.reward\n", "    pair = known.policy\n"),
        ("the context begins at the first word", "words[0, 1 : 1 + number]", "words[0, :number]"),
        (
            "nothing is mirrored",
            "jax.random.bernoulli(key_flip), part[:, ::-1], part)",
            "jax.random.bernoulli(key_flip), part, part)",
        ),
    ),
    *planted(
        "jaxtrain/nets/two_tower.py",
        ("words behind the end count", "words.argmax(1)]", "-1]"),
        (
            "context is one word late",
            "[x[:, :1], own, x[:, 1 + len(context) :]]",
            "[x[:, :2], own, x[:, 2 + len(context) :]]",
        ),
    ),
    *planted(
        "jaxtrain/nets/vit.py",
        ("another gelu", "nn.sigmoid(1.702 * x)", "nn.sigmoid(x)"),
        (
            "no norm before the blocks",
            'x = layer_norm(name="norm_first")(x) if self.clip else x',
            "x = x",
        ),
        tests=("tests/jaxtrain/nets/test_vit.py",),
    ),
    *planted(
        "experiments/clip/pairs.py",
        (
            "a caption has no end",
            "np.full(num_classes, 5 + num_classes)",
            "np.full(num_classes, 0)",
        ),
        ("noise is the same for all strengths", "deviation = 0.2 * strength", "deviation = 0.2"),
        tests=("tests/experiments/clip/test_pairs.py", "tests/experiments/test_tta_clip.py"),
    ),
    *planted(
        "experiments/tta_clip.py",
        (
            "the other sign",
            "resampled(right[first] - right[second])",
            "resampled(right[second] - right[first])",
        ),
        ("arrays of any shape", "if held[name].shape != leaf.shape:", "if False:"),
        ("too few texts", "if len(words) < max(", "if len(words) < min("),
    ),
]


FAULTS = [
    *RLCF,
    *CONTINUAL,
    *VISION_LANGUAGE,
    *SELF_SUPERVISED,
    *MEMORY,
    *ALONE,
    *EXPERIMENTS,
    *JAXRL_LM,
    *JAXTTA_REASONING,
    *JAXRL,
    *JAXTTA_LPN,
    *JAXTTA_IMAGES,
    *JAXTTA_IN_CONTEXT,
    *LM,
    *LM_COMMANDS,
    *JAXTRAIN,
    *JAXTRAIN_HOST,
    *DATA,
    *BOUNDARIES,
]
