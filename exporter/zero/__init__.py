"""Exit zero: a small graph over numbers that need no model.

fit.py       chooses and fits a model on the training split, as of each slate's moment
models.py    gradient boosting and a logistic model as graphs
graph.py     runs the graph, and checks one from elsewhere
"""
