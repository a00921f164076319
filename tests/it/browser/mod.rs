//! What people see: the dashboard in a real Chromium, driven by WebDriver.
