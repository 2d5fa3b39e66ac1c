"""Backpropagation through time by hand, for training on CPUs: one node of the graph per layer and direction.

PyTorch's CPU kernels are made for other cases. Its GRU and RNN leave every operation of every step in the graph;
its LSTM (oneDNN) rearranges all weights at each call, multiplies with the zeros of an omitted initial state, and
keeps a workspace four times the size of the gates. Here the states are columns (H, B), so that each step's product
has the orientation in which BLAS is fastest; derivatives that need no recurrence are taken for all steps at once;
and what is kept for the backward pass is the gates, the LSTM's cells, and the outputs.

    node.py     the node: inputs to pre-activations, the cell over time, gradients of inputs and weights
    lstm.py, gru.py, elman.py
                one kind of cell each: forward over the steps, and backward (cell.py: what they have in common)
    single.py   one step from an omitted state, where nothing recurs
    stack.py    layers, directions and dropout around nodes; when this way is taken
"""

from trcompress.layers.recurrence.stack import suits, through_time

__all__ = ["suits", "through_time"]
