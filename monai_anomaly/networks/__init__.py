"""Networks: `blocks` are the parts, `nets` the detectors and segmenters built of them."""
