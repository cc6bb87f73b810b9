"""What a policy loses in use: slates that it answered, scored again at full depth, and a test that may be read at any time.

betting   losses one by one -> whether "the mean loss is within the limit" still holds
losses    a slate's two rankings -> what the policy loses against full depth, without labels
limits    report.json -> the loss to watch and its limit, of the policy and of more careful ones
log       audited slates -> a file, and back
state     audited slates in order -> the test's state, and the rule in force
"""
