"""The main job: neurons, conditions and results in one folder that can be resumed."""
