"""Everything the demo model and the demo training sets say, written here and combined by a seeded generator.

Read in this order: `world` (small tables of everyday knowledge), `questions` (the tables as questions and answers),
`stories` (a story grammar), `corpus` (what the demo model is trained on), `sets` (what it is fine-tuned on).
No outside text is used anywhere.
"""
