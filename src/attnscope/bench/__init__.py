"""The benchmark: mistakes with a known truth, planted in models that are really trained, and who finds them.

A *subject* is one model on one task. A bench case is plain data: a subject, a fault (or a control, or neither),
its layer and strength, a seed, and the share of the training after which it is looked at. Running a case trains
the subject with the fault in place and stores one row: what the lenses read in every block, what the diagnosis
said, and how well the model does. A *ranker* turns rows into a suspicion (is anything wrong?) and an order of
places (where?); all rankers look at the same rows, so none is run at a cost that another is spared.
"""
