"""The heated softmax and the losses it is compared with."""
