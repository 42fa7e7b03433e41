"""An embedded P4 switch: BMv2 JSON compiled to native XDP, controlled through P4Runtime."""
