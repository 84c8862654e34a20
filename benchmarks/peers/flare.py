"""The work by NVIDIA FLARE's simulator: flare.py FOLDER [threads=2]."""

import os
from pathlib import Path

import torch
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe.sim_env import SimEnv
from work import Net, arguments

HERE = Path(__file__).parent


def main() -> None:
    work, options = arguments()
    os.environ["OMP_NUM_THREADS"] = "1"
    checkpoint = work.folder / "initial.pt"
    torch.save(work.network().state_dict(), checkpoint)
    recipe = FedAvgRecipe(
        name="work", model=Net(), initial_ckpt=str(checkpoint), min_clients=work.sites, num_rounds=work.rounds,
        train_script=str(HERE / "flare_client.py"), train_args=str(work.folder),
    )  # fmt: skip
    names = [f"site-{k}" for k in range(work.sites)]
    room = work.folder / "flare"
    run = recipe.execute(SimEnv(clients=names, num_threads=int(options.get("threads", 2)), workspace_root=str(room)))
    run.get_result()
    (stored,) = room.rglob("FL_global_model.pt")
    state = torch.load(stored, weights_only=False)["model"]
    work.finish({name: torch.as_tensor(value) for name, value in state.items()})


if __name__ == "__main__":
    main()
