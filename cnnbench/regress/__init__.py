"""The regression gate: does a change make training slower, hungrier or less accurate?"""
