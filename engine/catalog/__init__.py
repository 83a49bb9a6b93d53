"""What there is to choose from, as tables and as files: models, GPUs, shardings, tasks, chat templates, hub look-ups.

Imports engine.system; the plan and every room after it may import it. Nothing here needs torch.
"""
