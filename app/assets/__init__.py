"""Assets and listings: lists, decisions, candidates, agreement."""
