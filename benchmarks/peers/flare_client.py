"""One site of NVIDIA FLARE's simulator; see flare.py."""

import sys
from pathlib import Path

import nvflare.client as flare
from turns import Turn
from work import opened, train


def main() -> None:
    work, images, labels, net = opened(Path(sys.argv[1]))
    flare.init()
    site, turn = int(flare.get_site_name().split("-")[1]), Turn()
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        turn.wait()
        net.load_state_dict(received.params)
        train(net, work.batches(site, received.current_round + 1), images, labels)
        sent = {"NUM_STEPS_CURRENT_ROUND": work.cases[site]}
        flare.send(flare.FLModel(params={name: t.clone() for name, t in net.state_dict().items()}, meta=sent))
    turn.wait()


if __name__ == "__main__":
    main()
