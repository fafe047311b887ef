"""Schedules: ramps of learning rates and of attributes of losses and layers, all pure functions of progress."""

from lipcert.schedules.ramps import Constant as Constant
from lipcert.schedules.ramps import Cosine as Cosine
from lipcert.schedules.ramps import Exponential as Exponential
from lipcert.schedules.ramps import Linear as Linear
from lipcert.schedules.ramps import Milestones as Milestones
from lipcert.schedules.ramps import Step as Step
from lipcert.schedules.schedule import Schedule as Schedule
