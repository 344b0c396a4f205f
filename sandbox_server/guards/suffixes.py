"""Names under which anybody can have a name: a wildcard there would allow strangers."""

from __future__ import annotations

# Second levels of country domains: co.uk, com.au, or.jp, gov.in.
_SECOND_LEVELS = """
ac asn ass avocat biz co com conf coop ed edu fin firm gen go gob gouv gov govt gv id ind inf info
int k12 lg lib ltd me med mi mil mod museum name ne net nhs nic nom nsn or org oz plc police press
pro pvt re res sch school state store tm tur tv web www
"""
# Hosters that give names away below their own, and services that answer with any address asked for.
_HOSTERS = """
000webhostapp.com amazonaws.com amazonaws.com.cn amplifyapp.com appspot.com azureedge.net
azurefd.net azurestaticapps.net azurewebsites.net b-cdn.net backblazeb2.com bitbucket.io
blob.core.windows.net blogspot.com cdn.ampproject.org cloudapp.azure.com cloudapp.net cloudfront.net
cloudfunctions.net cluster.local codespaces.dev core.windows.net ddns.net deno.dev
digitaloceanspaces.com duckdns.org dyndns.org edgekey.net elasticbeanstalk.com
eu.org firebaseio.com fastly.net fastlylb.net firebaseapp.com fly.dev gateway.dev gitbook.io github.dev
github.io githubusercontent.com gitlab.io glitch.me googleapis.com googleusercontent.com gotdns.org
herokuapp.com hf.space home.arpa hopto.org hosted.app in-addr.arpa ip6.arpa js.org lambda-url.amazonaws.com
lhr.life loca.lt localtunnel.me myshopify.com netlify.app ngrok-free.app ngrok.app ngrok.dev
ngrok.io nip.io no-ip.org now.sh on.aws onmicrosoft.com onrender.com pages.dev pipedream.net
pythonanywhere.com r2.dev railway.app render.com repl.co replit.app replit.dev
run.app s3.amazonaws.com serveo.net sharepoint.com sslip.io storage.googleapis.com streamlit.app
supabase.co surge.sh svc.cluster.local trafficmanager.net translate.goog trycloudflare.com uk.com
unpkg.com us.com vercel.app vercel.dev vercel.sh web.app webflow.io windows.net wordpress.com workers.dev
xip.io zeabur.app
"""
# Theirs, too, but with regions and services in between: below these nothing is anybody's own.
_REGIONAL = """
amazonaws.com amazonaws.com.cn on.aws api.aws appspot.com azurecontainer.io azurecontainerapps.io
azurestaticapps.net azurewebsites.net cloudapp.azure.com cloudflarestorage.com run.app windows.net
"""
_GENERIC = frozenset(_SECOND_LEVELS.split())
_SHARED = frozenset(_HOSTERS.split())
_BELOW = tuple(f".{each}" for each in _REGIONAL.split())


def is_public_suffix(host: str) -> bool:
    """Of a canonical name. Errs on the side of yes: a rule can always name whole hosts."""
    labels = host.split(".")
    if len(labels) < 2 or host in _SHARED or f".{host}".endswith(_BELOW):
        return True
    return len(labels) == 2 and len(labels[1]) == 2 and labels[0] in _GENERIC
