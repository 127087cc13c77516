"""Retract the stored quotes of a source that none of its files contains any longer, at the end of a full refresh."""
