"""The page: Gradio components that read run directories and leave requests; nothing here computes with tensors."""
