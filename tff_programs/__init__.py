"""Federated computations and programs: training, simulation, search, export, fleets.

Names are loaded when they are used (PEP 562): `import tff_programs` alone loads no TensorFlow.
"""

from fedsup_tf.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "tff_programs.aggregators.clipping": [
            "ClippingFactory",
            "ZeroingFactory",
            "adaptive_clipping_norm",
            "adaptive_zeroing_norm",
        ],
        "tff_programs.aggregators.compression": ["EightBitUpload"],
        "tff_programs.aggregators.overlap_mean": ["OverlapMeanFactory"],
        "tff_programs.aggregators.privacy": ["PrivacyAccount", "PrivateOverlapMeanFactory"],
        "tff_programs.aggregators.robust": ["RobustOverlapMeanFactory"],
        "tff_programs.execution.contexts": ["local_execution", "remote_execution"],
        "tff_programs.learning.calibration": ["calibrate_federated", "calibrate_federated_async"],
        "tff_programs.learning.channel_statistics": [
            "federated_preprocessing",
            "federated_preprocessing_async",
        ],
        "tff_programs.learning.evaluation": ["CandidateEvaluation", "build_federated_evaluation"],
        "tff_programs.learning.message_size": ["traffic_counter"],
        "tff_programs.learning.nesterov": ["build_nesterov"],
        "tff_programs.learning.schedule": ["build_schedule"],
        "tff_programs.learning.training_process": ["build_fedsup_process"],
        "tff_programs.programs.calibration_files": ["calibrate_tiers", "calibrate_tiers_async"],
        "tff_programs.programs.checkpoint": ["TrainedSupernet", "load_trained"],
        "tff_programs.programs.data": ["plot_partition"],
        "tff_programs.programs.fleet_server": ["Fleet", "FleetSettings"],
        "tff_programs.programs.subnet_evaluation": ["evaluate_subnets", "evaluate_subnets_async"],
        "tff_programs.programs.subnet_export": ["export_subnets", "export_subnets_async"],
        "tff_programs.programs.subnet_search": [
            "SearchSettings",
            "search_subnets",
            "search_subnets_async",
        ],
        "tff_programs.programs.training_information": ["training_information"],
        "tff_programs.programs.training_run": ["TrainingRun", "train_run", "train_run_async"],
        "tff_programs.reports.report": ["format_bytes", "format_seconds", "format_table"],
        "tff_programs.reports.simulation_report": [
            "cost_table",
            "draw_availability",
            "draw_client_accuracies",
            "draw_comparison",
        ],
        "tff_programs.simulation.availability": ["diurnal_trace", "load_trace"],
        "tff_programs.simulation.clients": ["ClientData"],
        "tff_programs.simulation.device_speed": ["DeviceTime", "default_devices", "load_devices"],
        "tff_programs.simulation.in_memory": ["client_accuracies", "simulate", "simulate_async"],
        "tff_programs.simulation.round_clock": ["SimulatedTime"],
        "tff_programs.simulation.round_plan": ["Assignment"],
        "tff_programs.simulation.tff_client_data": ["to_client_data"],
        "tff_programs.simulation.tiers": ["Tier", "default_tiers", "parse_tiers"],
    },
)
