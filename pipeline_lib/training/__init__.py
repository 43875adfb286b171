"""Training jobs on DeepSpeed: SFT, GRPO and relatives, reward models; checkpoints that continue exactly."""
