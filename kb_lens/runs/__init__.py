"""The main job: neurons, conditions and measures in one folder that can be resumed."""
