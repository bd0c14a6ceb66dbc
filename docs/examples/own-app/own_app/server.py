"""The ServerApp."""

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from fl import flower
from own_app.net import SHAPE, Net, accuracy, pictures

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    strategy = getattr(flower, str(context.run_config["strategy"]))(Net, SHAPE, fraction_train=0.5)
    x, y = pictures([0, 1, 2, 3], 400, seed=999)

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        return MetricRecord({"accuracy": accuracy(strategy.load(arrays), x, y)})

    rounds = int(context.run_config["rounds"])
    result = strategy.start(grid, ArrayRecord(Net().state_dict()), rounds, evaluate_fn=evaluate)
    print("accuracy of each round:", [scores["accuracy"] for scores in result.evaluate_metrics_serverapp.values()])
