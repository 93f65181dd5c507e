"""Methods compared fairly: protocols, runs that can be killed and continued, tables beside published figures."""
