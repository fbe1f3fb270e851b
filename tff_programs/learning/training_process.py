"""FedSup and E-FedSup as a `tff.learning.templates.LearningProcess`."""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf.architecture import Architecture
from fedsup_tf.client_update import local_update
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files.validation import check_choice, check_number
from fedsup_tf.frozen import check_frozen
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.slicing import WEIGHTINGS
from fedsup_tf.space import SearchSpace
from fedsup_tf.supernet import Supernet
from tff_programs.aggregators.overlap_mean import OverlapMeanFactory
from tff_programs.learning.distribution import broadcast_subnet, select_subnets
from tff_programs.learning.server_update import ServerUpdate
from tff_programs.types import SubnetUpdate, client_data_type


def build_fedsup_process(
    space: SearchSpace,
    local_training: LocalTraining,
    preprocessing: Preprocessing,
    learning_rate: float | Callable[[tf.Tensor], tf.Tensor] = 0.1,
    *,
    architecture: Architecture | None = None,
    aggregation: str | tff.aggregators.WeightedAggregationFactory = "coverage",
    weighting: str = "examples",
    server_optimizer: tff.learning.optimizers.Optimizer | None = None,
    averaging: float = 0.0,
    seed: int = 0,
) -> tff.learning.templates.LearningProcess:
    """Builds the federated training of a supernet (arXiv 2206.01366, algorithms 1 and 2).

    * E-FedSup: without `architecture`, each client receives only the slices of the subnet that its
      data specify, through `tff.federated_select`, and sends back only those. One traced
      computation serves all subnets.
    * FedSup: `architecture=space.largest()` broadcasts the supernet to all clients;
      `local_training.sandwich` is then the number of nets trained in each step.
    * FedAvg: an `architecture` and a sandwich of 1 train that single net.

    The type signatures, with W the supernet's weights as `tff.learning.models.ModelWeights` and S
    `tff.learning.templates.LearningAlgorithmState`:

        initialize: ( -> S@SERVER)
        next: (<state=S@SERVER, client_data={D*}@CLIENTS> -> <state=S@SERVER, metrics=M@SERVER>)
        get_model_weights: (S -> W)
        set_model_weights: (<S, W> -> S)

    where D* is a sequence of ONE element that holds all of a client's data for a round (see
    `client_data_type`), and M is `<client_work=<train=<loss=float32, examples=float32,
    clients=int32, rejected=int32[?], learning_rate=float32>>>` plus any other measurements of the
    aggregation.

    Args:
      space: The supernet's search space.
      local_training: Hyperparameters of the clients' training.
      preprocessing: Normalization and augmentation of the images.
      learning_rate: The clients' learning rate, or a function that maps the round (int32, from 0)
        to it. It is computed on the server and sent to the clients.
      architecture: Single subnet that all clients train; by default each client trains its own.
      aggregation: `"coverage"` or `"diluted"`, see `OverlapMeanFactory`; or any factory from
        `SubnetUpdate` and float32 weights to `MeanUpdate`, made for this space and, with a sandwich
        of more than 1, `nested`.
      weighting: `"examples"` weights each client by its number of examples; `"uniform"` weights all
        clients that have examples equally.
      server_optimizer: Optimizer that uses the negative mean update as its gradient (FedOpt), on
        the entries that were trained in the round; by default the mean update is added.
      averaging: If above 0, `get_model_weights` returns the exponential average over the rounds of
        the weights from which clients train. The average keeps at most this share of itself in each
        round. It reduces the influence of the data that the last rounds happened to see; PN has no
        statistics that averaging would invalidate.
      seed: Seed of the initial weights.

    Returns:
      The learning process.
    """
    if not callable(learning_rate):
        check_number(learning_rate, "learning_rate", above=0)
    server_update = ServerUpdate(server_optimizer, averaging)
    check_choice(weighting, "weighting", WEIGHTINGS)
    check_frozen(space, local_training.frozen)
    supernet = Supernet(space, seed)
    nested = local_training.sandwich > 1
    if architecture is None:
        distribution = select_subnets(supernet, nested)
    else:
        distribution = broadcast_subnet(supernet, architecture, nested)
    data_type = client_data_type(space)

    # Server computations.

    @tff.tensorflow.computation
    def initial_state():
        # A new supernet, since its variables must live in this computation's graph.
        variables = Supernet(space, seed).weights_by_name().values()
        weights = tuple(variable.read_value() for variable in variables)
        return tff.learning.models.ModelWeights(weights, ()), server_update.initialize(weights)

    weights_type, finalizer_type = initial_state.type_signature.result

    @tff.tensorflow.computation(np.int32)
    def round_learning_rate(round_number):
        rate = learning_rate(round_number) if callable(learning_rate) else learning_rate
        return tf.cast(rate, tf.float32)

    # Client computations.

    @tff.tensorflow.computation(distribution.received_type, data_type, np.float32)
    def client_update(received, data, rate):
        element = data.get_single_element()
        subnet = distribution.open(received, element)
        update = local_update(
            supernet,
            subnet.weights,
            subnet.architecture,
            element["images"],
            element["labels"],
            element["seed"],
            rate,
            local_training,
            preprocessing,
        )
        return SubnetUpdate(
            delta=tuple(update.delta.values()),
            architecture=subnet.index,
            client=element["client"],
            examples=update.examples,
            loss=update.loss,
        )

    value_type = client_update.type_signature.result

    @tff.tensorflow.computation(value_type)
    def client_weight(update):
        return update.examples if weighting == "examples" else tf.minimum(update.examples, 1.0)

    if isinstance(aggregation, str):
        aggregation = OverlapMeanFactory(supernet, aggregation, nested)
    aggregator = aggregation.create(value_type, tff.TensorType(np.float32))

    @tff.tensorflow.computation(
        weights_type,
        finalizer_type,
        aggregator.next.type_signature.result.result.member,
        np.int32,
    )
    def finalize(weights, finalizer, mean, round_number):
        state, trainable = server_update.next(
            finalizer, tuple(weights.trainable), mean, round_number
        )
        return tff.learning.models.ModelWeights(trainable, ()), state

    @tff.tensorflow.computation(np.int32)
    def increment(round_number):
        return round_number + 1

    @tff.federated_computation
    def initialize():
        weights, finalizer = tff.federated_eval(initial_state, tff.SERVER)
        return tff.federated_zip(
            tff.learning.templates.LearningAlgorithmState(
                global_model_weights=weights,
                distributor=tff.federated_value((), tff.SERVER),
                client_work=tff.federated_value(0, tff.SERVER),
                aggregator=aggregator.initialize(),
                finalizer=finalizer,
            )
        )

    @tff.federated_computation(
        initialize.type_signature.result, tff.FederatedType(data_type, tff.CLIENTS)
    )
    def next_fn(state, client_data):
        weights = state.global_model_weights
        rate = tff.federated_map(round_learning_rate, state.client_work)
        received = distribution.send(weights.trainable, client_data)
        updates = tff.federated_map(
            client_update, (received, client_data, tff.federated_broadcast(rate))
        )
        aggregated = aggregator.next(
            state.aggregator, updates, tff.federated_map(client_weight, updates)
        )
        new_weights, new_finalizer = tff.federated_map(
            finalize, (weights, state.finalizer, aggregated.result, state.client_work)
        )
        new_state = tff.federated_zip(
            tff.learning.templates.LearningAlgorithmState(
                global_model_weights=new_weights,
                distributor=state.distributor,
                client_work=tff.federated_map(increment, state.client_work),
                aggregator=aggregated.state,
                finalizer=new_finalizer,
            )
        )
        measured = aggregated.measurements
        names = tff.structure.name_list(measured.type_signature.member)
        train_metrics = OrderedDict((name, measured[name]) for name in names)
        train_metrics["learning_rate"] = rate
        metrics = tff.federated_zip(OrderedDict(client_work=OrderedDict(train=train_metrics)))
        return tff.learning.templates.LearningProcessOutput(new_state, metrics)

    state_type = initialize.type_signature.result.member

    @tff.tensorflow.computation(state_type)
    def get_model_weights(state):
        trainable = tuple(state.global_model_weights.trainable)
        evaluated = server_update.evaluated(state.finalizer, trainable)
        return tff.learning.models.ModelWeights(evaluated, ())

    @tff.tensorflow.computation(state_type, weights_type)
    def set_model_weights(state, weights):
        return tff.learning.templates.LearningAlgorithmState(
            global_model_weights=weights,
            distributor=state.distributor,
            client_work=state.client_work,
            aggregator=state.aggregator,
            finalizer=server_update.replaced(state.finalizer, tuple(weights.trainable)),
        )

    return tff.learning.templates.LearningProcess(
        initialize, next_fn, get_model_weights, set_model_weights
    )
