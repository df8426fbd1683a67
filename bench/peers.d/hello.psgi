# The application that Starlet serves under start_server:
#
#     start_server --port=127.0.0.1:@PORT@ --pid-file=@FOLDER@/start_server.pid
#         --status-file=@FOLDER@/status --
#         plackup -s Starlet -E deployment --max-workers=32 --max-reqs-per-child=100000 hello.psgi
#
# Server::Starter(3pm), DESCRIPTION: "To gracefully restart the server program, send SIGHUP to the
# superdaemon." The command line is that of Starlet(3pm), SYNOPSIS. -E deployment: plackup's default loads
# middleware for developers. 32 workers, since each serves one connection at a time (the SYNOPSIS
# of start_server(1p) has 100); 100,000 requests for each, since Starlet's default of 100 makes it fork all the
# time. Not set: --max-keepalive-reqs. By its default "persistent connections are disabled": it is meant to stand
# behind a reverse proxy, and says "Connection: close" in each answer.

use strict;
use warnings;

open my $file, '<', 'generation' or die "generation: $!\n";
chomp(my $generation = <$file>);
close $file;

sub {
    my $env = shift;
    select undef, undef, undef, 0.3 if $env->{PATH_INFO} eq '/slow';
    return [
        200,
        [
            'Content-Type'     => 'text/plain',
            'Content-Length'   => 13,
            'Segue-Generation' => $generation,
            'Segue-Pid'        => $$,
        ],
        ["hello, world\n"],
    ];
};
