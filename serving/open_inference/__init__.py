"""The Open Inference Protocol v2, as KServe and Triton speak it, over the same models, queue and limits."""
