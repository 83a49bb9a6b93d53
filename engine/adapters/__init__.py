"""How a method gets hold of a model, on PEFT: attaching, saving and loading adapters, PEFT's options, our own tuners.

Imports system, catalog and the plan; `engine.methods` and the rooms after it may import it. PEFT is imported when it is called.
"""
