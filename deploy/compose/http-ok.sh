# Is GET http://127.0.0.1:$1$2 answered with 200? For images that have bash and no HTTP client.
exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$2" >&3
IFS= read -r status <&3
[[ $status == "HTTP/1.1 200 "* ]]
