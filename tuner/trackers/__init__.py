"""Other programs that are told of a run: TensorBoard, MLflow, Weights & Biases."""
