"""Write the checkpoints that lie here: a state as MeanFlow's JAX code keeps it, by the real Orbax.

    python tests/importing/orbax/write.py dump STATE.npz        # with this project's environment
    python tests/importing/orbax/write.py save STATE.npz OUT    # with orbax-checkpoint and flax

Made on 2026-11-28 with orbax-checkpoint 0.12.8 and flax 0.12.8, and with 0.4.4 and 0.10.4. `flax` is what
flax.training.checkpoints writes today, `manager` Orbax's CheckpointManager, `plain` and `zarr3` its other forms.
"""

import os
import shutil
import sys
from pathlib import Path

import numpy as np


def dump(file: str) -> None:
    import foreign_transformers as theirs

    trees = {"ema_params": theirs.coarse("jax-meanflow", 2), "params": theirs.coarse("jax-meanflow", 1)}
    flat = {f"{name}/net/{key}": value for name, net in trees.items() for key, value in flattened(net).items()}
    np.savez_compressed(file, **flat)


def flattened(net) -> dict[str, np.ndarray]:
    import foreign_transformers as theirs

    return theirs.flat(theirs.flax_tree(net))


def save(file: str, out: str) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"
    import flax
    import jax.numpy as jnp
    import orbax.checkpoint as ocp
    from flax.training import checkpoints

    flat = {tuple(key.split("/")): jnp.asarray(value) for key, value in np.load(file).items()}
    state = flax.traverse_util.unflatten_dict(flat)
    state |= {
        "step": jnp.int32(1200),
        "rng": jnp.array([1, 2], jnp.uint32),
        "opt_state": [{"mu": jnp.zeros(3)}, {}],
    }
    version, home = ocp.__version__, Path(out).resolve()
    checkpoints.save_checkpoint_multiprocess(str(home / "flax"), state, 1200)
    forms = {"flax": home / "flax"}
    if version != "0.4.4":
        state.pop("params")
        forms |= {name: home / name for name in ("manager", "plain", "zarr3")}
        with ocp.CheckpointManager(forms["manager"]) as manager:
            manager.save(5, args=ocp.args.StandardSave(state))
            manager.wait_until_finished()
        ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)).save(forms["plain"], state)
        ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_zarr3=True)).save(forms["zarr3"], state)
    for name, folder in forms.items():
        shutil.make_archive(str(home / f"{name}-{version}"), "zip", folder)


if __name__ == "__main__":
    {"dump": dump, "save": save}[sys.argv[1]](*sys.argv[2:])
