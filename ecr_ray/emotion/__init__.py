"""The nine emotions of a message: what they are learnt from, the classifier, and the annotation of whole dialogues."""
