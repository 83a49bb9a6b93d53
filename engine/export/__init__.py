"""What a run leaves for its owner: the merged model with its proof, and downloads.

Imports inference, jobs and the rooms before them; pipelines and the page may import it.
"""
