"""The verbs about job files: a first one is written, editors are told what may stand in one."""
