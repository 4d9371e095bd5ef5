-- Run once, when the server's data folder is made. The database k2 is the server's first one.
CREATE DATABASE dagster;
CREATE DATABASE registry;
