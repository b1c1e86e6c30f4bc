"""What is done to trained weights: functions from weights to weights or to bytes."""
