"""The work by Flower's simulation: flower.py FOLDER."""

from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from turns import Turn
from work import arguments, opened, train

client = ClientApp()
server = ServerApp()


@client.train()
def learn(message: Message, context: Context) -> Message:
    """One site's pass over its cases."""
    about = message.content["config"]
    work, images, labels, net = opened(Path(about["folder"]))
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    site = int(context.node_config["partition-id"])
    train(net, work.batches(site, int(about["server-round"])), images, labels)
    reply = {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({"num-examples": work.cases[site]})}
    return Message(content=RecordDict(reply), reply_to=message)


@server.main()
def lead(grid: Grid, context: Context) -> None:
    """All rounds."""
    work, turn = arguments()[0], Turn()
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=work.sites, min_available_nodes=work.sites)
    merge = strategy.aggregate_train

    def merged(number, replies):  # type: ignore[no-untyped-def]
        found = merge(number, replies)
        turn.wait()
        return found

    strategy.aggregate_train = merged
    turn.wait()
    result = strategy.start(
        grid,
        ArrayRecord(work.initial()),
        num_rounds=work.rounds,
        train_config=ConfigRecord({"folder": str(work.folder)}),
    )
    work.finish(result.arrays.to_torch_state_dict())


if __name__ == "__main__":
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server, client, num_supernodes=arguments()[0].sites, backend_config=resources)
