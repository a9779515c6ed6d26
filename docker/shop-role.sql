-- For docker/compose.shop.yaml: the role of the service, which has the database's name and owns the database.
CREATE ROLE :"DBNAME" LOGIN PASSWORD 'secret';
ALTER DATABASE :"DBNAME" OWNER TO :"DBNAME";
REVOKE CONNECT ON DATABASE :"DBNAME" FROM PUBLIC;
